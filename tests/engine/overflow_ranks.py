"""What test_two_ranks.py checks of overflows, on every rank.

Only one rank sees an overflow, as on a device whose arithmetic saturates and whose register has the
flag: the gradients that the ranks sum are finite.
"""

from __future__ import annotations

from mindcv_ghost.launch.world import World

UPDATES = 6
OVERFLOWS = {(1, 2), (0, 4), (1, 4)}  # rank, and which of its batches from 0


def check_overflow(world: World) -> None:
    import numpy as np
    from mindspore import Parameter, Tensor, nn, ops

    from mindcv_ghost.engine.collectives import Collectives
    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.parameters import assign_parameter
    from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, Outcome, TrainStep
    from tests.engine.networks import CrossEntropy, Linear, batch

    class Register(nn.Cell):
        """A check whose result the test sets, for this rank only."""

        per_rank = True

        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.flag = Parameter(Tensor([0.0]), name="register", requires_grad=False)

        def start(self, x):
            return x

        def construct(self, gradients):
            return ops.depend(self.flag, gradients).sum() == 0

    collectives = Collectives(world.rank, world.size)
    for accumulation in (1, 2):
        network, register = Linear(), Register()
        step = TrainStep(
            NetworkWithLoss(network, CrossEntropy()),
            create_optimizer(network, OptimizerSettings("momentum"), [0.1] * 20, "CPU"),
            LossScale(1024.0, dynamic=True),
            accumulation_steps=accumulation,
            ranks=world.size,
            check=register,
        )
        step.set_train()
        seen = []
        for number in range(UPDATES * accumulation):
            overflows = (world.rank, number) in OVERFLOWS
            assign_parameter(register.flag, np.array([overflows], np.float32))
            _, outcome = step(*batch(4, seed=10 * world.rank + number))
            if accumulation > 1 and number % accumulation == accumulation - 1:
                assign_parameter(register.flag, np.zeros(1, np.float32))
                outcome = step.update(accumulation)
            if accumulation == 1 or number % accumulation:
                seen.append(Outcome.read(outcome).finite)
        # Batches 2 and 4 are the first of the second and of the third group of two.
        bad = (2, 4) if accumulation == 1 else (1, 2)
        assert seen == [number not in bad for number in range(UPDATES)], seen
        assert (step.scale, step.updates_done) == (256.0, UPDATES - 2), step.scale
        collectives.assert_equal(network)
        states = collectives.gather(np.array([step.scale, step.updates_done]))
        assert states[0].tolist() == states[1].tolist()
