"""Write the network that a training would start with, as a run of 0 epochs.

python -m tools.measure.proof_start OPTIONS_OF_TRAIN

For a fitted start (``ghostify: {init: fit}``): what it is worth before any training.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("GLOG_v", "3")

from mindcv_ghost.analysis.complexity import count_parameters
from mindcv_ghost.config import load_config
from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.launch.world import detect
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.run.parts import create_initial_network, open_set, run_facts
from mindcv_ghost.run.session import open_session
from mindcv_ghost.storage.checkpoint import save_weights
from mindcv_ghost.storage.provenance import source_commit, utc_now

__all__ = ["main"]


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Write ``last.ckpt``, ``config.yaml`` and ``run.json``; return the exit status."""
    config = load_config(sys.argv[1:] if argv is None else argv)
    world = detect(os.environ)
    with open_session(config, world, writes=True) as session:
        import mindspore as ms

        ms.set_seed(config.system.seed)
        model = config.model
        train_set = open_set(config, config.dataset.train_split)
        network, report = create_initial_network(config, model.num_classes, train_set)
        parameters = count_parameters(network)
        facts = run_facts(config, world, session.device, model.num_classes, parameters)
        facts |= {"commit": source_commit(), "hardware": describe_hardware(), "date": utc_now()}
        if report is not None:
            facts["ghostify"] = report.as_dict()
        assert session.folder is not None  # rank 0 of a run that writes
        save_weights(list(network.get_parameters()), session.folder.path / "last.ckpt")
        session.folder.write_config(config.to_yaml())
        session.folder.write_facts({**facts, "epochs": 0, "seconds": 0, "compile_seconds": 0})
    return 0


if __name__ == "__main__":
    sys.exit(main())
