"""A loss of one's own."""

from distill import Batch, DistillationLoss, LossSum, Needs, Request, Signals


class TeacherBrier(DistillationLoss):
    """sum_c |p_c - q_c|^power, p and q the student's and the teacher's probabilities: at most 2 a prediction."""

    outputs = "classes"  # one softmax; a task whose outputs are yes or no each is refused

    def __init__(self, weight: float = 1.0, power: float = 2.0) -> None:
        super().__init__(weight=weight)
        self.power = power

    @property
    def needs(self) -> Needs:
        return Needs(student=Request(logits=True), teacher=Request(logits=True))

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> LossSum:
        ours, theirs = student.at(batch.mask), teacher.at(batch.mask)  # [N, C], the positions that count
        difference = ours.float().softmax(-1) - theirs.float().softmax(-1)
        return LossSum(difference.abs().pow(self.power).sum(), batch.count)
