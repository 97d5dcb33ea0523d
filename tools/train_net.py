"""Train or evaluate a detector.

    python tools/train_net.py --config-file configs/faster_rcnn_X50_32x4d.yaml
    python tools/train_net.py --config-file CONFIG --num-gpus 8 SOLVER.IMS_PER_BATCH 16 OUTPUT_DIR output/x50
    python tools/train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS output/x50/model_final.pth
    torchrun --nproc-per-node 8 tools/train_net.py --config-file CONFIG

The flags are those of detectron2's train_net.py. ``--resume`` goes on from the newest checkpoint of OUTPUT_DIR; Ctrl-C leaves one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from resnext_det.detection import ENGINES, Job, evaluate, train
from resnext_det.training.interruption import TrainingInterrupted


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; argparse ends the program with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config-file", required=True, metavar="YAML", help="the configuration")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint of OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; do not train")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="what computes (default: auto)")
    parser.add_argument(
        "--register-coco",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "ANNOTATIONS", "IMAGES"),
        help="a COCO file and its image folder, for use in DATASETS.TRAIN and DATASETS.TEST; repeatable",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of the machine of rank 0")
    parser.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the configuration"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        the exit status: 0; 1 for an error that the user can mend; 130 where Ctrl-C or SIGTERM stopped it.
    """
    options = parse_arguments(arguments)
    job = Job(
        config_file=options.config_file,
        overrides=tuple(options.overrides),
        engine=options.engine,
        num_gpus=options.num_gpus,
        resume=options.resume,
        datasets=tuple(tuple(dataset) for dataset in options.register_coco),
        num_machines=options.num_machines,
        machine_rank=options.machine_rank,
        dist_url=options.dist_url,
    )
    try:
        metrics = evaluate(job) if options.eval_only else train(job)
    except KeyboardInterrupt as stop:
        at_once = (
            "stopped at once; --resume goes on from the newest checkpoint of OUTPUT_DIR, if there is one"
        )
        print(stop if isinstance(stop, TrainingInterrupted) else at_once, file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, found in metrics.per_dataset.items():
        print(f"{name}: AP {found.AP:.1f}, AP50 {found.AP50:.1f}; everything is in {metrics.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
