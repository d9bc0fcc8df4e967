"""BatchNorms that say that they have no backward in eval mode: what they refuse they need not get right.

Must not know `reference` or `npnorm`: the corpus judges the judge.
"""

from tests.planted.row import right
from tests.planted.wrong.batch_norm.loop import LoopBatchNorm
from tests.planted.wrong.batch_norm.running import ClosureBatchNorm


class ClosureEvalBackwardRaises(ClosureBatchNorm):
    def backward(self, dy):
        if not self.training and self.track_running_stats:
            raise RuntimeError("backward called in eval mode")
        return super().backward(dy)


class LoopEvalBackwardRaises(LoopBatchNorm):
    def backward(self, dy):
        if not self.batch:
            raise NotImplementedError("only training is differentiable")
        return super().backward(dy)


ROWS = (
    right("BatchNorm", ClosureEvalBackwardRaises, "closure; a RuntimeError in eval"),
    right("BatchNorm", LoopEvalBackwardRaises, "loop; a NotImplementedError in eval"),
)
