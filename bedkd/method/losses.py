"""Equations 1, 2, 3, 5 and 6 of the paper: tensors in, one scalar out.

A step sees a batch. The paper's sums over rows (Eq. 1, first term of Eq. 2) are means over the B
rows of the batch here: the same minimiser, and a scale that does not change with the batch. The
second term of Eq. 2, which the paper calls a mean, is one over all H numbers of all tokens of the
batch that are no padding: of two rows the longer counts more, and padding counts nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bedkd.nn.supervised import cross_entropy


def hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 1: cross-entropy of the student's prediction. logits [B, C], labels [B] (int64)."""
    return cross_entropy(logits, labels)


def soft_label_loss(
    logits: Tensor, teacher_logits: Tensor, temperature: float, soft_loss: str = "cross_entropy"
) -> Tensor:
    """First term of Eq. 2: -SF_t(x, T) log SF_s(x, T), summed over classes. Both logits [B, C].

    `kl` subtracts the teacher's entropy: a constant, hence the same gradient, and 0 where student
    and teacher agree (what the released code computes). Neither has the factor T² of Hinton et al.
    """
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    loss = -(teacher.exp() * student).sum(dim=-1).mean()
    if soft_loss == "kl":
        loss = loss + (teacher.exp() * teacher).sum(dim=-1).mean()
    return loss


def hidden_loss(hidden: Tensor, teacher_hidden: Tensor, mask: Tensor) -> Tensor:
    """Second term of Eq. 2: mean squared difference of the last hidden states.

    hidden, teacher_hidden [B, L, H]; mask [B, L], 1 where the mean counts a position; 0 if none.
    """
    weight = mask.unsqueeze(-1).to(torch.float32)
    squared = (hidden.float() - teacher_hidden.float()).square() * weight
    return squared.sum() / (weight.sum().clamp(min=1) * hidden.shape[-1])


def soft_loss(
    logits: Tensor,
    hidden: Tensor,
    teacher_logits: Tensor,
    teacher_hidden: Tensor,
    mask: Tensor,
    temperature: float,
    kind: str = "cross_entropy",
) -> Tensor:
    """Eq. 2: soft labels plus last hidden states (shapes as above)."""
    return soft_label_loss(logits, teacher_logits, temperature, kind) + hidden_loss(
        hidden, teacher_hidden, mask
    )


def distillation_loss(hard: Tensor, soft: Tensor, weight: float) -> Tensor:
    """Eq. 3 (weight α, labels flipped) and Eq. 5 (weight λ, labels true): w·hard + (1-w)·soft."""
    return weight * hard + (1 - weight) * soft


def penalty_loss(hard: Tensor, soft: Tensor, weight: float) -> Tensor:
    """Eq. 6: the negated Eq. 5. It has no lower bound."""
    return -distillation_loss(hard, soft, weight)


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of relu(z_y - max of the other logits). logits [B, C], labels [B].

    Not in the paper. In place of Eq. 6: its gradient is of size 1 while the student is sure of y,
    where Eq. 6 hardly has one, and it is 0, and stays there, once another class is the likelier.
    """
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).max(dim=1).values
    return F.relu(own.float() - others.float()).mean()
