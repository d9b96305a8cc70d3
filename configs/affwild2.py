"""Valence and arousal of every frame of in-the-wild video, from face and voice: Affwild2.

python -m jmt_jax.main --config=configs/affwild2.py
    A compact model. Without --config.data.dir it runs on the built-in sample of synthetic people.
python -m jmt_jax.main --config=configs/affwild2.py:paper --config.data.dir=DIR
    The windows, networks and optimizer of the paper (Waligora, Aslam et al., CVPRW 2024), with ResNet18 alone
    for the voice.
python -m jmt_jax.main --mode=eval --workdir=RUN --config.eval.split=test
    The challenge's files of the test videos, in RUN/challenge.
"""

from ml_collections import config_dict


def _stage(**options):
    """Options of one training stage; every stage has the same keys."""
    return config_dict.ConfigDict(
        {
            "epochs": 4,
            "global_batch_size": 16,
            "eval_every_epochs": 1.0,
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "learning_rate_floor": 0.0,
            "schedule": "cosine",
            "warmup_epochs": 0.5,
            "decay_every_epochs": 100,
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
    config.data.name = "affwild2"
    config.data.dir = ""  # raw or prepared; "" makes the sample
    config.data.task = "valence_arousal"
    # Labels to leave out, e.g. 2, ; a label that the task does not know and that is not listed here stops the
    # run, and so does one that is listed here and occurs nowhere in the data.
    config.data.leave_out_labels = ()
    config.data.shuffle_labels = ""
    config.data.cache_dir = ""  # "" is $JMT_CACHE_DIR or ~/.cache/jmt_jax
    config.data.prepare_workers = 0  # 0: one a core
    config.data.max_damaged = 0.05  # share of the recordings that may be damaged and are left out
    config.data.loader_threads = 2
    config.data.loader_workers = 0
    config.data.reader = {
        "edition": "",  # VA_Set or VA_Estimation_Challenge, where both are there
        "test_list": "",  # file with the names of the test set; "" looks for one
        "frame_rates": "",  # table video,rate_hz of videos that are not there
        "size": 48,
        "sound_rate_hz": 16_000,
    }
    config.data.sample = {
        "train": 9,
        "validation": 4,
        "test": 2,
        "seconds": 42.0,
        "seed": 0,
        "size": 112,
        "without_face": 0.05,
        "not_annotated": 0.05,
        "signature": 0.0,
    }
    config.data.grid = {
        "kind": "frames",
        "tokens": 16,
        "token_step_frames": 32,
        "schedule": "every_frame",  # or paper
        "label_shift_seconds": 0.0,  # annotators' reaction: training sees later labels, predictions move back
    }
    config.data.streams = {
        "visual": {
            "frames": 4,
            "reach_frames": 32,
            "augment": {
                "brightness": 0.2,
                "contrast": 0.2,
                "colour": 0.0,
                "grey_probability": 0.0,
                "flip_probability": 0.5,
                "shift": 0.08,
            },
        },
        # One second in the compact form: 32 mels, 20 ms windows 10 ms apart at 16 kHz.
        "audio": {
            "features": "log_mel",
            "window_seconds": 1.034,
            "reach_frames": 0,
            "mels": 32,
            "fft_samples": 512,
            "window_samples": 320,
            "hop_samples": 160,
        },
    }

    config.protocol = config_dict.ConfigDict()
    config.protocol.name = "official"  # subject_kfold: folds over videos
    config.protocol.num_folds = 5
    config.protocol.folds = (0,)  # which to run; () is all
    config.protocol.seed = 42
    config.protocol.validation_share = 0.2
    # Who chooses the checkpoint: a share of the training videos, so that the validation videos are new to it;
    # or validation itself, the videos that are reported, as is usual: results then say so.
    config.protocol.selection = "set_aside"
    config.protocol.exclude = ""
    config.protocol.test_subjects = ""

    config.model = config_dict.ConfigDict()
    config.model.streams = "visual,audio"
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
    config.model.audio = {
        "name": "resnet18",
        "weights": "",  # a file of jmt_jax.convert that the network starts from
        "stem_stride": 4,
        "widths": (8, 16, 32),
        "blocks": (1, 1, 1),
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
    # A fusion whose head differs from the others' has a <fusion>_head. Every token has its own values.
    config.model.head = {"name": "mlp", "hidden": (64,), "dropout": 0.1, "pooling": "none", "separate": True}
    config.model.unimodal_head = {**config.model.head, "separate": False}
    config.model.late_head = {**config.model.head, "hidden": (), "dropout": 0.0}

    config.training = config_dict.ConfigDict()
    config.training.stages = "visual,audio,fusion"  # or e.g. joint
    config.training.backbones_from = ""  # a run's folder: streams that it trained are not trained again
    # fusion: each frozen backbone is computed once, and its features are kept in the cache
    config.training.extract = True
    config.training.extract_draws = 0  # augmented copies that training draws from; 0 is none, only clean ones
    config.training.loss = "ccc"  # or mse
    config.training.label_smoothing = 0.0
    config.training.checkpoint_every_steps = 0  # above 0: also between evaluations, for long epochs
    config.training.max_bad_steps = 10  # so many in a row without finite loss and gradient end the run
    config.training.visual = _stage(epochs=5, learning_rate=4e-3, global_batch_size=8)
    config.training.audio = _stage()
    config.training.fusion = _stage(epochs=3, learning_rate=1e-3)
    config.training.joint = _stage(epochs=6)

    config.eval = config_dict.ConfigDict()
    config.eval.split = "validation"  # the test videos' labels are not published
    config.eval.select = ""  # validation metric that chooses the checkpoint; "" is ccc_mean
    config.eval.checkpoint = "best"  # last, or a step
    config.eval.data_dir = ""  # of --mode=eval: other recordings, without people whom the run has seen
    config.eval.global_batch_size = 16
    config.eval.num_resamples = 1000
    config.eval.frames = {
        "smoothing": "centred",  # paper, none
        "smoothing_frames": (20, 50),
        "value_range": (-1.0, 1.0),
    }
    if variant == "paper":
        _paper(config)
    return config


def _paper(config: config_dict.ConfigDict) -> None:
    """The authors' Affwild2 pipeline (reference facts B2 to B6)."""
    config.data.reader.size, config.data.reader.sound_rate_hz = 112, 44_100
    config.data.grid.schedule = "paper"
    config.data.streams.visual.frames = 8
    augment = config.data.streams.visual.augment
    config.data.streams.visual.augment = {
        **dict.fromkeys(augment, 0.0),
        "brightness": 0.2,
        "contrast": 0.2,
    }
    config.data.streams.audio = {
        "features": "log_mel",
        "window_seconds": 45_599 / 44_100,
        "reach_frames": 32,
        "mels": 64,
        "fft_samples": 1024,
        "window_samples": 882,
        "hop_samples": 441,
    }
    config.model.visual = {
        "name": "r2plus1d",
        "weights": "",  # torchvision's Kinetics weights, out of jmt_jax.convert --network=r2plus1d_18
        "reduction": "max",
    }
    config.model.audio = {"name": "resnet18", "weights": ""}
    wide = {"dim": 512, "hidden_dim": 512, "l2_norm": True}
    config.model.jmt = {
        **wide,
        "num_heads": 1,
        "num_layers": 1,
        "output": "self_attention",
        "dropout": 0.0,
    }
    config.model.concat = {"dim": 512}
    config.model.vanilla = {**wide, "num_heads": 1, "num_layers": 1, "output": "fc"}
    config.model.late = {"dim": 512, "hidden": (128,), "dropout": 0.0}
    config.model.bottleneck = {
        **wide,
        "num_heads": 1,
        "num_layers": 0,
        "num_fusion_layers": 2,
        "num_bottlenecks": 4,
    }
    config.model.rjca = {**wide, "num_iterations": 2}
    # The rate of the heads' dropout is not known.
    config.model.head.update(hidden=(128,), dropout=0.0)
    config.model.unimodal_head.update(hidden=(128,), dropout=0.0)
    sgd = {
        "optimizer": "sgd",
        "nesterov": True,
        "schedule": "step",
        "learning_rate": 1e-4,
        "learning_rate_floor": 1e-7,
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
        "clip_gradient_norm": 0.0,
        "global_batch_size": 32,
    }
    config.training.visual = _stage(**sgd, epochs=5)
    config.training.audio = _stage(**sgd, epochs=5)
    config.training.fusion = _stage(**sgd, epochs=20)
    config.training.joint = _stage(**sgd, epochs=20)
    config.eval.frames.smoothing = "paper"
