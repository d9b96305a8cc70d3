"""Pain from face and skin conductance on BioVid Part A: BL1 against PA4.

python -m jmt_jax.main --config=configs/biovid.py
    A compact model. Without --config.data.dir it runs on the built-in sample of synthetic people.
python -m jmt_jax.main --config=configs/biovid.py:paper --config.data.dir=DIR
    The networks, stages and optimizers of the paper (Waligora, Aslam et al., CVPRW 2024), with folds by
    subject. Its clip-level folds: --config.protocol.name=clip_kfold_test_selected
"""

from ml_collections import config_dict


def _stage(**options):
    """Options of one training stage; every stage has the same keys."""
    return config_dict.ConfigDict(
        {
            "epochs": 10,
            "global_batch_size": 32,
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
            "weight_decay": 1e-4,
            "clip_gradient_norm": 1.0,
            "accumulation_steps": 1,  # micro-batches of a global batch that memory does not hold at once
            "ema_decay": 0.0,  # above 0 (e.g. 0.999): averaged weights are evaluated and kept
            **options,
        }
    )


def get_config(variant: str = "sample") -> config_dict.ConfigDict:
    """The configuration.

    Args:
      variant: ``sample`` (compact, minutes on a laptop) or ``paper``.
    """
    if variant not in ("sample", "paper"):
        raise ValueError(f"there is no variant {variant!r}; it is sample or paper")
    config = config_dict.ConfigDict()
    config.seeds = (0,)
    config.parallelism = "jit"  # or pmap
    config.model_axis_devices = 1  # devices that share one copy of the fusion's wide matrices
    # Simple models on the same folds: majority, one_number, linear, and time where recordings are long.
    config.controls = "majority,one_number,linear"

    config.data = config_dict.ConfigDict()
    config.data.name = "biovid"
    config.data.dir = ""  # raw or prepared; "" makes the sample
    config.data.task = "bl1_vs_pa4"  # bl1_vs_any_pain, five_classes, ... (data_pipelines/tasks.py)
    # Labels to leave out, e.g. 2, ; a label that the task does not know and that is not listed here stops the
    # run, and so does one that is listed here and occurs nowhere in the data.
    config.data.leave_out_labels = ()
    config.data.shuffle_labels = ""  # within_subject: a control that must score at chance
    config.data.cache_dir = ""  # "" is $JMT_CACHE_DIR or ~/.cache/jmt_jax
    config.data.prepare_workers = 0  # 0: one a core
    config.data.max_damaged = 0.05  # share of the recordings that may be damaged and are left out
    config.data.loader_threads = 2
    config.data.loader_workers = 0
    config.data.reader = {
        "biosignals": "filtered",  # or raw
        "channels": (),  # of gsr ecg emg_trapezius emg_corrugator emg_zygomaticus; () is all that are there
        "size": 48,
        "crop": "auto",  # or given, centre
        "classes": (),  # pain classes to read, 0 to 4; () is all
        "video": True,  # False reads the signals alone
    }
    config.data.sample = {
        "subjects": 24,
        "clips_per_class": 10,
        "classes": (0, 4),
        "seed": 0,
        "size": 96,
        "frames": 138,
        "signature": 0.0,
    }
    config.data.grid = {"kind": "clip", "tokens": 4}
    config.data.streams = {
        "visual": {
            "frames": 5,
            "first_frame": 0,
            "last_frame": 0,
            "augment": {
                "brightness": 0.2,
                "contrast": 0.2,
                "colour": 0.0,
                "grey_probability": 0.0,
                "flip_probability": 0.5,
                "shift": 0.08,
            },
        },
        "physio": {
            "channels": ("gsr",),
            "samples": 2816,
            "normalise": "centred",
            "augment": {"gain": 0.2, "noise": 0.02, "shift_seconds": 0.0},
        },
    }

    config.protocol = config_dict.ConfigDict()
    config.protocol.name = "subject_kfold"  # loso, hold_out, clip_kfold_test_selected
    config.protocol.num_folds = 5
    config.protocol.folds = (0,)  # which to run; () is all
    config.protocol.seed = 42
    config.protocol.validation_share = 0.2
    config.protocol.selection = "validation"  # or set_aside: where there is an official validation part
    config.protocol.exclude = ""  # biovid_non_reactive: the 67-subject set
    config.protocol.test_subjects = ""  # biovid_hold_out, for protocol hold_out

    config.model = config_dict.ConfigDict()
    config.model.streams = "visual,physio"
    config.model.dtype = "float32"  # or bfloat16, of the computation
    config.model.modality_dropout = 0.0
    config.model.visual = {
        "name": "r2plus1d",
        "weights": "",  # a file of jmt_jax.convert that the network starts from
        "stem_width": 8,
        "stem_stride": 4,
        "widths": (8, 16, 32),
        "blocks": (1, 1, 1),
        "reduction": "avg",
    }
    config.model.physio = {
        "name": "conv1d",
        "weights": "",  # a file of jmt_jax.convert that the network starts from
        "channels": (16, 32, 32),
        "kernel_sizes": (9, 5, 5),
        "strides": (4, 2, 2),
        "features": 32,
        "pooling": "mean",
        "normalization": "batch",
    }
    config.model.fusion_weights = ""  # a file of jmt_jax.convert: what the fusion and the head start from
    config.model.fusion = "jmt"  # or any of those that have options below; vanilla_matched has jmt's
    config.model.jmt = {
        "dim": 64,
        "hidden_dim": 64,
        "num_heads": 1,
        "num_layers": 1,
        "output": "self_attention",
        "l2_norm": True,
        "dropout": 0.1,
    }
    config.model.concat = {"dim": 64}
    config.model.unimodal = {}
    config.model.vanilla = {"dim": 64, "hidden_dim": 64, "num_heads": 1, "num_layers": 1, "output": "fc"}
    config.model.late = {"dim": 64, "hidden": (64,), "dropout": 0.1}
    config.model.bottleneck = {
        "dim": 64,
        "hidden_dim": 64,
        "num_heads": 1,
        "num_layers": 0,
        "num_fusion_layers": 2,
        "num_bottlenecks": 4,
    }
    config.model.rjca = {"dim": 64, "hidden_dim": 64, "num_iterations": 2}
    # A fusion whose head differs from the others' has a <fusion>_head.
    config.model.head = {"name": "mlp", "hidden": (64,), "dropout": 0.1, "pooling": "mean"}
    config.model.unimodal_head = {"name": "mlp", "hidden": (64,), "dropout": 0.1, "pooling": "mean"}
    config.model.late_head = {"name": "mlp", "hidden": (), "dropout": 0.0, "pooling": "mean"}

    config.training = config_dict.ConfigDict()
    config.training.stages = "visual,physio,fusion"  # or e.g. joint
    config.training.backbones_from = ""  # a run's folder: streams that it trained are not trained again
    # fusion: each frozen backbone is computed once, and its features are kept in the cache
    config.training.extract = False
    config.training.extract_draws = 0  # augmented copies that training draws from; 0 is none, only clean ones
    config.training.loss = ""  # cross_entropy; for values ccc or mse; "" is the first of them
    config.training.label_smoothing = 0.0
    config.training.checkpoint_every_steps = 0  # above 0: also between evaluations, for long epochs
    config.training.max_bad_steps = 10  # so many in a row without finite loss and gradient end the run
    config.training.visual = _stage(
        epochs=27, eval_every_epochs=4.5, learning_rate=4e-3, global_batch_size=16
    )
    config.training.physio = _stage(epochs=12, eval_every_epochs=2.0)
    config.training.fusion = _stage(epochs=8, eval_every_epochs=2.0, learning_rate=5e-4)
    config.training.joint = _stage(epochs=16, eval_every_epochs=2.0)

    config.eval = config_dict.ConfigDict()
    config.eval.split = "test"
    config.eval.select = ""  # validation metric that chooses the checkpoint; "" is accuracy (ccc_mean)
    config.eval.checkpoint = "best"  # last, or a step
    config.eval.data_dir = ""  # of --mode=eval: other recordings, without people whom the run has seen
    config.eval.global_batch_size = 32
    config.eval.num_resamples = 1000
    if variant == "paper":
        _paper(config)
    return config


def _paper(config: config_dict.ConfigDict) -> None:
    """The authors' BioVid pipeline (reference facts C4, A7)."""
    config.data.reader.biosignals, config.data.reader.size = "raw", 112
    config.data.streams.visual.first_frame, config.data.streams.visual.last_frame = 50, 70
    for stream in config.data.streams.values():
        stream.augment = dict.fromkeys(stream.augment, 0.0)
    config.data.streams.physio.normalise = "none"
    config.model.visual = {
        "name": "r3d",
        "weights": "",  # torchvision's Kinetics weights, out of jmt_jax.convert --network=r3d_18
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    config.model.physio = {"name": "conv1d", "weights": "", "features": 512}
    config.model.jmt = {
        "dim": 512,
        "hidden_dim": 512,
        "num_heads": 1,
        "num_layers": 1,
        "output": "sequence",
        "l2_norm": False,
        "dropout": 0.0,
    }
    config.model.concat = {"dim": 512}
    wide = {"dim": 512, "hidden_dim": 512, "l2_norm": False}
    config.model.vanilla = {**wide, "num_heads": 1, "num_layers": 1, "output": "concat"}
    config.model.late = {"dim": 64, "hidden": (512, 256), "dropout": 0.0, "l2_norm": False}
    config.model.bottleneck = {
        **wide,
        "num_heads": 1,
        "num_layers": 0,
        "num_fusion_layers": 2,
        "num_bottlenecks": 4,
    }
    config.model.rjca = {**wide, "num_iterations": 2}
    config.model.head = {"name": "mlp", "hidden": (1024, 512, 256, 64), "dropout": 0.0, "pooling": "last"}
    config.model.vanilla_head = {"name": "mlp", "hidden": (512, 256, 64), "dropout": 0.0, "pooling": "last"}
    config.model.late_head = {"name": "mlp", "hidden": (), "dropout": 0.0, "pooling": "last"}
    config.model.unimodal_head = {"name": "mlp", "hidden": (), "dropout": 0.0, "pooling": "mean"}
    sgd = {
        "optimizer": "sgd",
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
        "clip_gradient_norm": 0.0,
    }
    adam = {**sgd, "optimizer": "adam", "global_batch_size": 128, "epochs": 100, "learning_rate": 5e-6}
    config.training.visual = _stage(**sgd, epochs=100, learning_rate=1e-3, global_batch_size=64)
    config.training.physio = _stage(**sgd, epochs=200, learning_rate=1e-4, global_batch_size=1024)
    config.training.fusion = _stage(**adam)
    config.training.joint = _stage(**adam)
