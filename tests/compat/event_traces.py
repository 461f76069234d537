"""What a callback sees at every event, in fits, validation, prediction and after every Cancel exception at every event.

Run under either library; the fastai result is kept in `tests/data/event_traces.json`:

    python tests/compat/event_traces.py fastai > tests/data/event_traces.json
"""
import importlib
import json
import sys

EVENTS = ('after_create before_fit before_epoch before_train before_batch after_pred after_loss before_backward '
          'after_cancel_backward after_backward before_step after_cancel_step after_step after_cancel_batch after_batch '
          'after_cancel_train after_train before_validate after_cancel_validate after_validate after_cancel_epoch '
          'after_epoch after_cancel_fit after_fit').split()
CODES = dict(zip(EVENTS, 'abcdefghijklmnopqrstuvwx'))
CANCELS = 'Fit Epoch Train Valid Batch Step Backward'.split()


def record(library):
    """All traces under `library` ('fastai' or 'minifast'): event strings by scenario, attributes for the plain fit."""
    vision = importlib.import_module(f'{library}.test_utils')
    core = importlib.import_module(f'{library}.callback.core')
    learner_module = importlib.import_module(f'{library}.learner')
    importlib.import_module(f'{library}.callback.all')
    learner_module.defaults.callbacks = [cb for cb in learner_module.defaults.callbacks
                                         if cb.__name__ != 'ProgressCallback']

    class Trace(core.Callback):
        order = 100

        def __init__(self, cancel=None, at=None):
            self.codes, self.attributes, self.cancel, self.at = '', [], cancel, at

    def note(name):
        def hook(self):
            self.codes += CODES[name]
            learn = self.learn
            self.attributes.append([name, bool(learn.training)] + [_number(learn, a) for a in (
                'epoch', 'iter', 'n_iter', 'train_iter', 'pct_train')])
            if name == self.at and self.cancel is not None:
                cancel, self.cancel = self.cancel, None
                raise getattr(core, f'Cancel{cancel}Exception')
        return hook
    for name in EVENTS:
        setattr(Trace, name, note(name))

    def run(action, **kwargs):
        trace = Trace(**kwargs)
        learn = vision.synth_learner(n_trn=2, n_val=1, cbs=trace)
        learn.logger = lambda row: None
        trace.codes, trace.attributes = '', []
        try:
            action(learn)
        except Exception as error:
            trace.codes += f'!{type(error).__name__}'
        return trace

    traces = {'fit': run(lambda learn: learn.fit(2)).codes, 'validate': run(lambda learn: learn.validate()).codes,
              'get_preds': run(lambda learn: learn.get_preds()).codes,
              'fit_one_cycle': run(lambda learn: learn.fit_one_cycle(1)).codes,
              'get_preds with_loss': run(lambda learn: learn.get_preds(with_loss=True)).codes}
    for cancel in CANCELS:
        for at in EVENTS[1:]:
            traces[f'{cancel} at {at}'] = run(lambda learn: learn.fit(2), cancel=cancel, at=at).codes
    return {'traces': traces, 'attributes': run(lambda learn: learn.fit(2)).attributes}


def _number(learn, name):
    value = getattr(learn, name, None)
    return round(float(value), 6) if isinstance(value, (int, float)) else None


if __name__ == '__main__':
    json.dump(record(sys.argv[1]), sys.stdout, indent=0)
