"""Mutants that change nothing anybody could see, each with the reason."""
from __future__ import annotations

EQUIVALENT: dict[tuple[str, ...], str] = {
    ('steep', '-if len(lrs) < 2:', '+if len(lrs) <= 2:'):
        'of two points there is one slope: the first point is where it is steepest',
    ('WandbCallback._has_epoch', "-return last.get('epoch', 0) > epoch or last.get('epoch', 0) == epoch and same",
     "+return last.get('epoch', 0) > epoch or last.get('epoch', None) == epoch and same"):
        'epochs are counted from 1, so that a run without one equals neither default',
    ('BatchMaker.assemble', '-return FetchedBatch(job.number, dl.do_batch(samples, slots), skipped, ended, seeds)',
     '+return FetchedBatch(job.number, dl.do_batch(samples, slots), skipped, None, seeds)'):
        'slots are for data with indices alone, and only of streams, which have none, is asked whether they ended',
    ('PictureCache.find', '-if len(mapped) < _START:', '+if len(mapped) <= _START:'):
        'a file that ends behind its header would hold a picture without pixels, which no file and no transform makes',
    ('_load', "-kind = 'L' if pixels.ndim == 2 else {2: 'LA', 3: 'RGB', 4: 'RGBA'}[pixels.shape[-1]]",
     "+kind = 'L' if pixels.ndim == 2 else {2: 'LA', 3: 'RGB', 4: 'rgba'}[pixels.shape[-1]]"):
        'an array of four channels goes through a Pillow image of the same mode and so of the same pixels',
    ('BCEWithLogitsLossFlat.__init__',
     '-super().__init__(nn.BCEWithLogitsLoss, *args, axis=axis, floatify=floatify, is_2d=False, **kwargs)',
     '+super().__init__(nn.BCEWithLogitsLoss, *args, axis=axis, floatify=floatify, is_2d=None, **kwargs)'):
        'is_2d is only asked whether it is true; it is no setting of this loss, so that no export holds it',
    ('Recorder.before_epoch', '-self.cancel_train = self.cancel_valid = False',
     '+self.cancel_train = self.cancel_valid = None'):
        'both are only asked whether they are true',
    ('PILBase._share', '-self.readonly = im.readonly = 1  # Pillow copies before it writes',
     '+self.readonly = im.readonly = 2  # Pillow copies before it writes'):
        'Pillow asks only whether it is true, and sets 0 when it has copied',
    ('find_bs', '-found = plain(found if isinstance(found, Tensor) else item_find(found))',
     '+found = plain(found if isinstance(None, Tensor) else item_find(found))'):
        'item_find of a tensor is the tensor: asking first only saves a call',
    ('resample', "-x = F.interpolate(x, scale_factor=1 / _shrink(x, size), mode='area', recompute_scale_factor=True)",
     "+x = F.interpolate(x, scale_factor=1 / _shrink(x, size), mode='area', recompute_scale_factor=False)"):
        'torch makes it True for mode area, whatever was given',
    ('named_in_file', "-owner, _, method = found[1].partition('.') if found else ('', '', '')",
     "+owner, _, method = found[1].partition('.') if found else ('XXXX', '', '')"):
        'no class or function is registered under either name',
    ('Transform._apply', '-table = type(self).__dict__.get(name) if name not in self.__dict__ else None',
     '+table = type(None).__dict__.get(name) if name not in self.__dict__ else None'):
        'the call of _table that it saves finds the same table, a fifth of a microsecond later',
    ('_report', '-f1 = 2 * hits / (support + predicted).clip(min=1)',
     '+f1 = 2 * hits / (support + predicted).clip(min=2)'):
        'a class that was met once, as target or as prediction, was never hit: 0 of whatever number is 0',
    ('_arguments',
     "-if name in ('self', 'args', 'kwargs', 'size_average', 'reduce') or value is parameter.default:",
     "+if name in ('self', 'args', 'kwargs', 'XXsize_averageXX', 'reduce') or value is parameter.default:"):
        'no loss of torch keeps size_average, which becomes its reduction, so that its default is what is found',
    ('_ResumingCallback.__init__', '-self._resumed: tuple[Path, dict[str, Any]] | None = None',
     '+self._resumed: tuple[Path, dict[str, Any]] | None = ""'):
        'before_fit sets it before anything asks for it, and a callback that met no before_fit is not active',
    ('_random_states', "-found['numpy_state'] = (kind, keys.numpy().astype(np.uint32), *rest)",
     "+found['numpy_state'] = (kind, keys.numpy().astype(None), *rest)"):
        'float64 holds every number of 32 bits, and numpy takes them as such when the state is set',
    ('appends', "-return 'a' in str(getattr(raw, 'mode', getattr(file, 'mode', '')))",
     "+return 'a' in str(getattr(raw, 'mode', getattr(file, 'mode', 'XXXX')))"):
        'it is only asked for an a, which neither text has',
    ('fa_convert', '-return t if isinstance(t, Tensor) else default_convert(t)',
     '+return t if (isinstance(t, Tensor)) and False else default_convert(t)'):
        'default_convert asks first whether it is a tensor, of whatever class, and gives it back',
    ('Overloads.__init__', '-self._decided_at = -1', '+self._decided_at = -2'):
        'versions are counted from 0, so that both say that nothing is decided yet',
    ('shift_hue', '-values[:, 0] = (values[:, 0] + shift.to(values)[:, None, None]).remainder(1)',
     '+values[:, 0] = (values[:, 0] + shift.to(values)[:, None, None]).remainder(2)'):
        'hsv2rgb takes the remainder of a whole turn itself',
    ('_shrink_titles',
     '-room = min([2 * centres[0], 2 * (fig.bbox.width - centres[-1]), *between]) if centres else 0',
     '+room = min([2 * centres[0], 2 * (fig.bbox.width - centres[-1]), *between]) if centres else 1'):
        'it is for the titles of axes, and without centres there is no axis',
    ('plot_sched', '-axes = get_grid(len(names), rows, columns, figsize=figsize or (6 * columns, 4 * rows))',
     '+axes = get_grid(len(names), rows, figsize=figsize or (6 * columns, 4 * rows))'):
        'in so many rows get_grid needs two columns, and one of a single name',
    ('plot_sched', '-axes = get_grid(len(names), rows, columns, figsize=figsize or (6 * columns, 4 * rows))',
     '+axes = get_grid(len(names), rows, None, figsize=figsize or (6 * columns, 4 * rows))'):
        'in so many rows get_grid needs two columns, and one of a single name',
    ('Arguments._deep', '-return kind.schema(shared)', '+return kind.schema(None)'):
        'a kind tells nothing that is shared',
    ('Files.add',
     '-paths = [UNKNOWN if v is None else os.path.join(base, v) if base else os.fspath(v) for v in values]',
     '+paths = [UNKNOWN if v is None else os.path.join(base, v) if (base) or True else os.fspath(v) for v in values]'):
        'joined to no base a path is itself, as a text',
    ('Files.look', "-root = os.path.commonprefix([min(every), max(every)]).rfind('/') + 1 if every else 0",
     "+root = os.path.commonprefix([min(every), max(every)]).rfind('/') + 1 if every else 1"):
        'of a column without a known path no name is cut',
    ('run_identity',
     "-described = watched(loss, lambda f: fingerprint(f)) if hasattr(loss, '__dict__') else fingerprint(loss)",
     "+described = watched(loss, lambda f: fingerprint(f)) if (hasattr(loss, '__dict__')) or True "
     "else fingerprint(loss)"):
        'a loss without attributes never changes by itself, so that watching it gives the same',
    ('_changes_the_training', "-return isinstance(there, dict) and str(there.get('class', '')).startswith('minifast.')",
     "+return isinstance(there, dict) and str(there.get('class', None)).startswith('minifast.')"):
        'neither default begins with the name of the package',
    ('_environment', "-device = getattr(learn.dls, 'device', None) or env.get('device', 'cpu')",
     "+device = getattr(learn.dls, 'device', None) or env.get('device', None)"):
        'what is known of a learner holds its device',
    ('_ResumingCallback._look_for', "-return 'begin', *nothing", "+return 'XXbeginXX', *nothing"):
        'it is only asked whether a fit is passed over or begun anew',
    ('_verified',
     "-there = sorted(file.name for file in parts.glob('*.safetensors')) if parts.is_dir() else []",
     "+there = sorted(file.name for file in parts.glob('*.safetensors')) if (parts.is_dir()) or True else []"):
        'in a folder that is not there, or is a file, glob finds nothing',
    ('_parts', "-found[f'metric {i}'] = metric, Hidden(metric, baselines, stop=inside, data=False)",
     "+found[f'metric {i}'] = metric, Hidden(metric, baselines, stop=inside, data=None)"):
        'it is only asked whether it is true',
    ('DistributedTrainer.batch_of_all',
     "-stands_in, n = getattr(self.learn.dl, 'stands_in', False), len(parts[0])",
     "+stands_in, n = getattr(self.learn.dl, 'stands_in', None), len(parts[0])"):
        'it is only asked whether it is true',
}
"""(function, the lines that go, the lines that come) -> why no test can tell them apart."""
