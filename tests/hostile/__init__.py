"""Files made to harm whoever loads them, and the laws that nothing in them runs."""
