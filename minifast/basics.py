"""All that trains a model, without pictures: `from minifast.basics import *`.

Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).
"""
from minifast.data import all as _data_all
from minifast.data.all import *
from minifast.optimizer import (
    Adam, adam_step, as_optimizer, average_grad, average_sqr_grad, debias, detuplify_pg, Hypers, l2_reg, Lamb,
    lamb_step, Larc, larc_layer_lr, larc_step, Lookahead, momentum_step, Optimizer, OptimWrapper, pytorch_hp_map,
    QHAdam, qhadam_step, RAdam, radam_step, ranger, rms_prop_step, RMSProp, set_item_pg, SGD, sgd_step, step_stat,
    weight_decay,
)
from minifast.metrics import (
    AccumMetric, accuracy, accuracy_multi, ActivationType, APScoreBinary, APScoreMulti, AvgLoss, AvgMetric,
    AvgSmoothLoss, BalancedAccuracy, BrierScore, BrierScoreMulti, CohenKappa, Dice, DiceMulti, error_rate, exp_rmspe,
    ExplainedVariance, F1Score, F1ScoreMulti, FBeta, FBetaMulti, foreground_acc, HammingLoss, HammingLossMulti,
    Jaccard, JaccardCoeff, JaccardCoeffMulti, JaccardMulti, LossMetric, LossMetrics, mae, MatthewsCorrCoef,
    MatthewsCorrCoefMulti, Metric, mk_metric, mk_metrics, mse, msle, optim_metric, PearsonCorrCoef, Perplexity,
    perplexity, Precision, PrecisionMulti, R2Score, Recall, RecallMulti, rmse, RocAuc, RocAucBinary, RocAucMulti,
    skm_to_fastai, SpearmanCorrCoef, top_k_accuracy, TorchMetric, ValueMetric,
)
from minifast.callback.core import (
    before_batch_cb, Callback, CancelBackwardException, CancelBatchException, CancelEpochException,
    CancelFitException, CancelStepException, CancelTrainException, CancelValidException, compile_hooks, event, events,
    FetchPredsCallback, GatherPredsCallback, hooks_of, TrainEvalCallback,
)
from minifast.callback.recorder import format_time, Recorder, SmoothLoss
from minifast.checkpoint import (
    check_model_state, check_opt_state, DamagedFileError, load_model, load_opt_state, save_model, UnsafeFileError,
)
from minifast.inference import get_preds, predict, show_results, summary, tta
from minifast.interpret import ClassificationInterpretation, Interpretation, plot_top_losses, SegmentationInterpretation
from minifast.learner import defaults, Learner, load_learner, replacing_yield

__all__ = [
    'AccumMetric', 'accuracy', 'accuracy_multi', 'ActivationType', 'Adam', 'adam_step', 'APScoreBinary',
    'APScoreMulti', 'as_optimizer', 'average_grad', 'average_sqr_grad', 'AvgLoss', 'AvgMetric', 'AvgSmoothLoss',
    'BalancedAccuracy', 'before_batch_cb', 'BrierScore', 'BrierScoreMulti', 'Callback', 'CancelBackwardException',
    'CancelBatchException', 'CancelEpochException', 'CancelFitException', 'CancelStepException',
    'CancelTrainException', 'CancelValidException', 'check_model_state', 'check_opt_state',
    'ClassificationInterpretation', 'CohenKappa', 'compile_hooks', 'DamagedFileError', 'debias', 'defaults',
    'detuplify_pg', 'Dice', 'DiceMulti', 'error_rate', 'event', 'events', 'exp_rmspe', 'ExplainedVariance', 'F1Score',
    'F1ScoreMulti', 'FBeta', 'FBetaMulti', 'FetchPredsCallback', 'foreground_acc', 'format_time',
    'GatherPredsCallback', 'get_preds', 'HammingLoss', 'HammingLossMulti', 'hooks_of', 'Hypers', 'Interpretation',
    'Jaccard', 'JaccardCoeff', 'JaccardCoeffMulti', 'JaccardMulti', 'l2_reg', 'Lamb', 'lamb_step', 'Larc',
    'larc_layer_lr', 'larc_step', 'Learner', 'load_learner', 'load_model', 'load_opt_state', 'Lookahead',
    'LossMetric', 'LossMetrics', 'mae', 'MatthewsCorrCoef', 'MatthewsCorrCoefMulti', 'Metric', 'mk_metric',
    'mk_metrics', 'momentum_step', 'mse', 'msle', 'optim_metric', 'Optimizer', 'OptimWrapper', 'PearsonCorrCoef',
    'Perplexity', 'perplexity', 'plot_top_losses', 'Precision', 'PrecisionMulti', 'predict', 'pytorch_hp_map',
    'QHAdam', 'qhadam_step', 'R2Score', 'RAdam', 'radam_step', 'ranger', 'Recall', 'RecallMulti', 'Recorder',
    'replacing_yield', 'rms_prop_step', 'rmse', 'RMSProp', 'RocAuc', 'RocAucBinary', 'RocAucMulti', 'save_model',
    'SegmentationInterpretation', 'set_item_pg', 'SGD', 'sgd_step', 'show_results', 'skm_to_fastai', 'SmoothLoss',
    'SpearmanCorrCoef', 'step_stat', 'summary', 'top_k_accuracy', 'TorchMetric', 'TrainEvalCallback', 'tta',
    'UnsafeFileError', 'ValueMetric', 'weight_decay',
]
__all__ += _data_all.__all__
