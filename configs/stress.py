"""Stress from a wristband: pulse and skin conductance of the Stress-Predict data set, 60 s windows.

    python -m jmt_jax.main --config=configs/stress.py --config.data.dir=DIR
        DIR is the data set as its authors publish it (Iqbal et al. 2022, Sensors 22(21):8135), or any folder
        of wristband exports with a table of labels. Without it, the built-in sample in the same layout.

Every recording of Stress-Predict has the same order of tasks, so the control ``time`` stands beside every
result.
"""

from ml_collections import config_dict


def _stage(**options):
    """Options of one training stage; every stage has the same keys."""
    return config_dict.ConfigDict(
        {
            "epochs": 10,
            "global_batch_size": 64,
            "eval_every_epochs": 1.0,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "learning_rate_floor": 0.0,
            "schedule": "cosine",
            "warmup_epochs": 1.0,
            "decay_every_epochs": 40,
            "decay_factor": 0.1,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-2,
            "clip_gradient_norm": 1.0,
            "accumulation_steps": 1,  # micro-batches of a global batch that memory does not hold at once
            "ema_decay": 0.0,  # above 0 (e.g. 0.999): averaged weights are evaluated and kept
            **options,
        }
    )


def _signal(**options):
    """Options of one wristband stream."""
    return {
        "window_seconds": 0.0,  # 0: the token's own part of the 60 s
        "normalise": "subject",  # looks ahead; subject_past does not
        "least_present": 0.5,
        "presence_channel": False,
        "augment": {"gain": 0.1, "noise": 0.05, "shift_seconds": 10.0},
        **options,
    }


def _backbone(**options):
    return {
        "name": "conv1d",
        "weights": "",  # a file of jmt_jax.convert that the network starts from
        "channels": (16, 32),
        "kernel_sizes": (5, 5),
        "strides": (2, 1),
        "features": 32,
        "pooling": "mean",
        "normalization": "batch",
        **options,
    }


def get_config() -> config_dict.ConfigDict:
    """The configuration."""
    config = config_dict.ConfigDict()
    config.seeds = (0,)
    config.parallelism = "jit"  # or pmap
    config.model_axis_devices = 1  # devices that share one copy of the fusion's wide matrices
    # Simple models on the same folds: majority, one_number, linear, and time where recordings are long.
    config.controls = "majority,one_number,linear,time"

    config.data = config_dict.ConfigDict()
    config.data.name = "e4"
    config.data.dir = ""
    config.data.task = "stress"
    # Labels to leave out, e.g. 2, ; a label that the task does not know and that is not listed here stops the
    # run, and so does one that is listed here and occurs nowhere in the data.
    config.data.leave_out_labels = ()
    config.data.shuffle_labels = ""
    config.data.cache_dir = ""
    config.data.prepare_workers = 0
    config.data.max_damaged = 0.05  # share of the recordings that may be damaged and are left out
    config.data.loader_threads = 2
    config.data.loader_workers = 0
    # As of `python -m data_pipelines.prepare --help`; see README for the files.
    config.data.reader = {
        "labels": "",  # table of labels, relative to data.dir; "" takes the only one with the columns below
        "participant_column": "",  # "" is Participant
        "time_column": "",  # "" is Time(sec): UNIX seconds, or clock times with their zone
        "label_column": "",  # "" is Label
        "label_name": "stress",
        "label_values": "",  # what words in the label column stand for, e.g. rest=0,stress=1
        "label_offset_seconds": 0.0,  # added to the labels' times, e.g. for another time zone
        "subjects": "",  # who is one person: named, above, or a table session,subject
        "streams_used": ("pulse", "skin_conductance", "temperature"),
        "electrode_off_microsiemens": 0.03,  # skin conductance up to this is missing; -1: none
    }
    config.data.sample = {"subjects": 10, "seconds": 1200.0, "blocks": 8, "seed": 0}
    config.data.grid = {
        "kind": "sliding",
        "tokens": 6,
        "window_seconds": 60.0,
        "step_seconds": 30.0,
        "mixed": "drop",
    }
    config.data.streams = {"pulse": _signal(), "skin_conductance": _signal(), "temperature": _signal()}

    config.protocol = config_dict.ConfigDict()
    config.protocol.name = "subject_kfold"
    config.protocol.num_folds = 5
    config.protocol.folds = ()  # all
    config.protocol.seed = 42
    config.protocol.validation_share = 0.2
    config.protocol.selection = "validation"  # or set_aside: where there is an official validation part
    config.protocol.exclude = ""
    config.protocol.test_subjects = ""

    config.model = config_dict.ConfigDict()
    config.model.streams = "pulse,skin_conductance"
    config.model.dtype = "float32"
    config.model.modality_dropout = 0.0
    config.model.pulse = _backbone(kernel_sizes=(9, 9), strides=(4, 2))
    config.model.skin_conductance = _backbone(strides=(1, 1))
    config.model.temperature = _backbone(strides=(1, 1))
    config.model.fusion_weights = ""  # a file of jmt_jax.convert: what the fusion and the head start from
    config.model.fusion = "jmt"  # or any of those that have options below; vanilla_matched has jmt's
    config.model.jmt = {
        "dim": 32,
        "hidden_dim": 32,
        "num_heads": 1,
        "num_layers": 1,
        "output": "self_attention",
        "l2_norm": False,
        "dropout": 0.2,
    }
    config.model.concat = {"dim": 32}
    config.model.unimodal = {}
    narrow = {"dim": 32, "hidden_dim": 32, "l2_norm": False}
    config.model.vanilla = {**narrow, "num_heads": 1, "num_layers": 1, "output": "fc", "dropout": 0.2}
    config.model.late = {"dim": 32, "hidden": (32,), "l2_norm": False, "dropout": 0.3}
    config.model.bottleneck = {
        **narrow,
        "num_heads": 1,
        "num_layers": 0,
        "num_fusion_layers": 2,
        "num_bottlenecks": 4,
        "dropout": 0.2,
    }
    config.model.rjca = {**narrow, "num_iterations": 2}
    # A fusion whose head differs from the others' has a <fusion>_head.
    config.model.head = {"name": "mlp", "hidden": (32,), "dropout": 0.3, "pooling": "mean", "separate": False}
    config.model.unimodal_head = dict(config.model.head)
    config.model.late_head = {**config.model.head, "hidden": (), "dropout": 0.0}

    config.training = config_dict.ConfigDict()
    config.training.stages = "pulse,skin_conductance,temperature,fusion"
    config.training.backbones_from = ""  # a run's folder: streams that it trained are not trained again
    # fusion: each frozen backbone is computed once, and its features are kept in the cache
    config.training.extract = False
    config.training.extract_draws = 0  # augmented copies that training draws from; 0 is none, only clean ones
    config.training.loss = ""  # cross_entropy; for values ccc or mse; "" is the first of them
    config.training.label_smoothing = 0.0
    config.training.checkpoint_every_steps = 0  # above 0: also between evaluations, for long epochs
    config.training.max_bad_steps = 10  # so many in a row without finite loss and gradient end the run
    config.training.pulse = _stage()
    config.training.skin_conductance = _stage()
    config.training.temperature = _stage()
    config.training.fusion = _stage()
    config.training.joint = _stage()

    config.eval = config_dict.ConfigDict()
    config.eval.split = "test"
    config.eval.select = "auroc"  # validation metric that chooses the checkpoint; "" is accuracy (ccc_mean)
    config.eval.checkpoint = "best"
    config.eval.data_dir = ""  # of --mode=eval: other recordings, without people whom the run has seen
    config.eval.global_batch_size = 128
    config.eval.num_resamples = 1000
    return config
