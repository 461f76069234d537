"""One run and another: who a run is, how two of them differ, and the folder that one writes into."""
