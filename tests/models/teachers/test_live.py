"""The promises of a teacher that runs beside the student."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from distill.core.signals import Batch, Request, Signals
from distill.models.teachers import LiveTeacher, fingerprint
from distill.models.teachers.memory import LogitMemory
from distill.tasks import TASKS, TextClassification

LOGITS = Request(logits=True)
TASK = TextClassification(["no", "yes"])


def bert(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model("bert", vocab_size=30, **(sizes | {"attn_implementation": "eager"} | changes))
    return AutoModelForSequenceClassification.from_config(config)


def batch(ids: list[int] | None, length: int = 5) -> Batch:
    """Samples whose tokens are a function of their id; longer batches are padded."""
    rows = [torch.randint(1, 30, (5,), generator=torch.Generator().manual_seed(i)) for i in ids or range(4)]
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    tokens[:, :5] = torch.stack(rows)
    return Batch(inputs={"input_ids": tokens, "attention_mask": (tokens > 0).long()}, ids=ids)


class Counted:
    """How often the model ran."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[dict[str, Any]] = []
        model.register_forward_pre_hook(lambda _m, _a, kwargs: self.calls.append(kwargs), with_kwargs=True)


def digest(model: nn.Module) -> bytes:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in model.state_dict().values())).digest()


def test_the_teacher_is_frozen_in_eval_mode_and_its_bytes_do_not_change() -> None:
    model = bert().train()
    before = digest(model)
    teacher = LiveTeacher(model, TASK)
    assert not any(p.requires_grad for p in model.parameters())
    for _ in range(3):
        model.train()  # a callback or a trainer that means well
        teacher.signals(batch(None), LOGITS)
        assert not any(m.training for m in model.modules())
    assert digest(model) == before


def test_a_dropout_left_in_train_mode_by_others_is_off() -> None:
    model = bert(hidden_dropout_prob=0.5)
    teacher = LiveTeacher(model, TASK, remember=False)
    expected = teacher.evaluate(batch([1, 2])).logits
    model.bert.encoder.layer[0].train()
    found = teacher.signals(batch([1, 2]), LOGITS).logits
    assert expected is not None
    assert found is not None
    assert torch.equal(found, expected)


def test_signals_have_no_graph_and_autograd_may_save_them() -> None:
    request = Request(logits=True, hidden_states=frozenset({0, 2}), attentions=frozenset({1}))
    signals = LiveTeacher(bert(), TASK).signals(batch([1, 2, 3]), request)
    assert signals.logits is not None
    for tensor in (signals.logits, *signals.hidden_states.values(), *signals.attentions.values()):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad
        assert not tensor.is_inference()
        student = torch.zeros_like(tensor, requires_grad=True)
        (student * tensor).square().sum().backward()  # the product saves the tensor
        nn.functional.mse_loss(student, tensor).backward()
        assert student.grad is not None
        torch.testing.assert_close(student.grad, -2 * tensor / tensor.numel())


def test_nothing_is_computed_or_kept_that_was_not_asked_for() -> None:
    model = bert()
    counted = Counted(model)
    signals = LiveTeacher(model, TASK).signals(batch([1, 2]), LOGITS)
    assert not any(counted.calls[0].get(name) for name in ("output_hidden_states", "output_attentions"))
    assert signals == Signals(logits=signals.logits)
    assert LiveTeacher(model, TASK).signals(batch([1]), Request(hidden_states=frozenset({1}))).logits is None


def test_remembered_logits_are_the_same_bits_and_the_model_does_not_run() -> None:
    model = bert()
    teacher, counted = LiveTeacher(model, TASK), Counted(model)
    first = {i: teacher.signals(batch([i, i + 1]), LOGITS).logits for i in (1, 3, 5)}
    assert len(counted.calls) == 4  # the first batch is asked twice: do its answers stay?
    again = teacher.signals(batch([6, 2, 3, 1], length=9), LOGITS).logits  # another order and padding
    assert len(counted.calls) == 4
    assert again is not None
    rows = [(5, 1), (1, 1), (3, 0), (1, 0)]
    assert torch.equal(again, torch.stack([first[i][row] for i, row in rows]))  # type: ignore[index]


def test_a_remembered_value_wins_over_a_computed_one() -> None:
    model = bert()
    teacher, counted = LiveTeacher(model, TASK), Counted(model)
    digests = batch([2]).input_digests
    teacher.load_state_dict({"ids": torch.tensor([2]), "digests": digests, "logits": torch.tensor([[7.0, -7.0]])})
    found = teacher.signals(batch([1, 2, 3]), LOGITS).logits
    plain = teacher.evaluate(batch([1, 2, 3])).logits
    assert len(counted.calls) == 3
    assert found is not None
    assert plain is not None
    assert found[1].tolist() == [7.0, -7.0]
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    assert teacher.state_dict()["ids"].tolist() == [2, 1, 3]


def test_an_id_twice_in_a_batch_is_remembered_once() -> None:
    teacher = LiveTeacher(bert(), TASK)
    teacher.signals(batch([4, 4, 9]), LOGITS)
    assert teacher.state_dict()["ids"].tolist() == [4, 9]


def test_the_memory_grows_and_ids_may_be_far_apart() -> None:
    teacher = LiveTeacher(bert(), TASK)
    seen = {i: Tensor() for i in range(0, 10**12, 10**12 // 1500)}
    for i in seen:
        seen[i] = teacher.signals(batch([i]), LOGITS).logits[0]  # type: ignore[index]
    for i in list(seen)[::100]:
        assert torch.equal(teacher.signals(batch([i]), LOGITS).logits[0], seen[i])  # type: ignore[index]


def test_callers_cannot_change_what_is_remembered() -> None:
    teacher = LiveTeacher(bert(), TASK)
    first = teacher.signals(batch([1]), LOGITS).logits
    assert first is not None
    expected = first.clone()
    first.zero_()
    second = teacher.signals(batch([1]), LOGITS).logits
    assert second is not None
    assert torch.equal(second, expected)
    second.zero_()
    assert torch.equal(teacher.state_dict()["logits"], expected)


@pytest.mark.parametrize("case", ["no ids", "turned off", "more than logits", "validation"])
def test_nothing_is_remembered_without(case: str) -> None:
    model = bert()
    teacher, counted = LiveTeacher(model, TASK, remember=case != "turned off"), Counted(model)
    request = Request(logits=True, hidden_states=frozenset({1})) if case == "more than logits" else LOGITS
    for _ in range(2):
        if case == "validation":
            teacher.evaluate(batch([1]))
        else:
            teacher.signals(batch(None if case == "no ids" else [1]), request)
    assert len(counted.calls) == 2
    assert teacher.state_dict() == {}


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1025)])
def test_logits_per_position_or_very_wide_are_not_remembered(shape: tuple[int, ...]) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_zeros(shape)

    model = Fixed()
    teacher, counted = LiveTeacher(model, TASK), Counted(model)
    teacher.signals(Batch(inputs={"input": torch.zeros(2, 1)}, ids=[1, 2]), LOGITS)
    assert teacher.state_dict() == {}
    assert len(counted.calls) == 1  # nor is it asked whether its answers stay


def test_memory_is_saved_as_tensors_only_and_comes_back_bit_for_bit() -> None:
    teacher = LiveTeacher(bert(), TASK)
    expected = teacher.signals(batch([5, 6, 7]), LOGITS).logits
    file = io.BytesIO()
    torch.save(teacher.state_dict(), file)
    file.seek(0)
    model = bert()
    again, counted = LiveTeacher(model, TASK), Counted(model)
    again.load_state_dict(torch.load(file, weights_only=True))
    found = again.signals(batch([5, 6, 7]), LOGITS).logits
    assert not counted.calls
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)
    again.load_state_dict({})
    again.signals(batch([5]), LOGITS)
    assert len(counted.calls) == 2


class Coin(nn.Module):
    """Answers that change from pass to pass, or stay, as ``stays`` says of each pass."""

    def __init__(self, *stays: bool) -> None:
        super().__init__()
        self.stays, self.passes = stays, 0

    def forward(self, input: Tensor) -> Tensor:
        self.passes += 1
        stays = self.stays[self.passes - 1] if self.passes <= len(self.stays) else False
        return input.new_full((len(input), 2), 1.0 if stays else 1.0 + self.passes)


def plain(ids: list[int]) -> Batch:
    return Batch(inputs={"input": torch.tensor(ids)[:, None].float()}, ids=ids)


@pytest.mark.parametrize("stays", [True, False])
def test_a_resumed_run_does_not_try_again_whether_answers_stay(stays: bool) -> None:
    first = LiveTeacher(Coin(stays, stays), TASK)
    first.signals(plain([1, 2]), LOGITS)
    state = first.state_dict()
    assert ("ids" in state) == stays
    model = Coin()  # whose passes from here on all differ
    resumed = LiveTeacher(model, TASK)
    resumed.load_state_dict(state)
    found = [resumed.signals(plain([3]), LOGITS).logits for _ in range(2)]
    assert model.passes == (1 if stays else 2)  # one that was found steady once stays remembered
    assert torch.equal(found[0], found[1]) == stays  # type: ignore[arg-type]


def test_a_teacher_that_one_rank_found_random_is_remembered_by_none() -> None:
    teachers = [LiveTeacher(Coin(True, True), TASK), LiveTeacher(Coin(), TASK)]
    for teacher, ids in zip(teachers, ([1], [2]), strict=True):
        teacher.signals(plain(ids), LOGITS)
    shared(teachers)
    assert [set(teacher.state_dict()) for teacher in teachers] == [{"random"}] * 2


def test_memories_of_several_ranks_join() -> None:
    left, right, whole = (LiveTeacher(bert(), TASK) for _ in range(3))
    left.signals(batch([1, 2]), LOGITS)
    right.signals(batch([2, 3]), LOGITS)
    states = left.state_dict(), right.state_dict()
    whole.load_state_dict({name: torch.cat([state[name] for state in states]) for name in ("ids", "digests", "logits")})
    assert sorted(whole.state_dict()["ids"].tolist()) == [1, 2, 3]


def views(ids: list[int], shift: int) -> Batch:
    """Samples that are augmented: of one id, the tokens of another."""
    return Batch(inputs=batch([i + shift for i in ids]).inputs, ids=ids)


@pytest.mark.parametrize("ids", [[1, 2], [2, 3], [3, 9, 2]])  # all known, some
def test_a_sample_whose_inputs_changed_is_asked_anew_and_warned_of_once(
    ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    teacher = LiveTeacher(bert(), TASK)
    teacher.signals(views([1, 2], 0), LOGITS)
    for shift in (100, 200, 0):
        found, expected = teacher.signals(views(ids, shift), LOGITS).logits, teacher.evaluate(views(ids, shift)).logits
        assert found is not None
        assert expected is not None
        assert torch.equal(found, expected)
    (warning,) = caplog.records
    assert "sample 2 " in warning.message or "sample 1 " in warning.message
    again = LiveTeacher(bert(), TASK)
    again.load_state_dict(teacher.state_dict())
    again.signals(views([5], 0), LOGITS)
    assert set(again.state_dict()) == {"changed"}  # a resumed run knows it too


def shared(teachers: list[LiveTeacher]) -> None:
    """What a gather over ranks does, one after the other."""
    states = [teacher.state_dict(own=True) for teacher in teachers]
    for teacher in teachers:
        teacher.share(lambda _state: states)


def test_what_one_rank_was_told_all_know_after_the_epoch() -> None:
    models = [bert(), bert(), bert()]
    teachers, counted = [LiveTeacher(model, TASK) for model in models], [Counted(model) for model in models]
    first = [
        teacher.signals(batch(ids), LOGITS).logits
        for teacher, ids in zip(teachers, ([1, 2], [3, 4], [5, 2]), strict=True)
    ]
    shared(teachers)
    for teacher, count in zip(teachers, counted, strict=True):
        found = teacher.signals(batch([4, 1, 5, 2]), LOGITS).logits
        assert len(count.calls) == 2  # both of the first batch
        assert found is not None
        expected = torch.stack([first[1][1], first[0][0], first[2][0], first[0][1]])  # type: ignore[index]
        assert torch.equal(found, expected)  # of a sample that two had, the first rank's
    teachers[1].signals(batch([6]), LOGITS)
    assert teachers[1].state_dict(own=True)["ids"].tolist() == [6]
    shared(teachers)
    shared(teachers)  # Lightning may end an epoch twice
    assert all(teacher.state_dict()["ids"].tolist() == [1, 2, 3, 4, 5, 6] for teacher in teachers)


def test_a_rank_gets_back_what_all_had_and_its_own_from_a_checkpoint() -> None:
    teachers = [LiveTeacher(bert(), TASK) for _ in range(2)]
    for teacher, ids in zip(teachers, ([1], [2]), strict=True):
        teacher.signals(batch(ids), LOGITS)
    shared(teachers)
    for teacher, ids in zip(teachers, ([3], [4]), strict=True):
        teacher.signals(batch(ids), LOGITS)
    states = [teacher.state_dict(own=rank > 0) for rank, teacher in enumerate(teachers)]
    assert states[1]["ids"].tolist() == [4]
    resumed = LiveTeacher(bert(), TASK)
    resumed.load_state_dict(states[1], states[0])
    for found, expected in zip(resumed.state_dict().values(), teachers[1].state_dict().values(), strict=True):
        assert torch.equal(found, expected)


def test_inputs_that_changed_on_one_rank_make_all_ranks_ask_anew() -> None:
    teachers = [LiveTeacher(bert(), TASK) for _ in range(2)]
    for teacher in teachers:
        teacher.signals(views([1, 2], 0), LOGITS)
    teachers[1].signals(views([1, 2], 100), LOGITS)
    shared(teachers)
    assert [set(teacher.state_dict()) for teacher in teachers] == [{"changed"}] * 2


def test_the_fingerprint_changes_with_one_weight_and_one_token() -> None:
    class Words:
        def __init__(self, *words: str) -> None:
            self.words = words

        def get_vocab(self) -> dict[str, int]:
            return {word: i for i, word in enumerate(self.words)}

    model = bert()
    first = fingerprint(model, Words("a", "b"))
    assert fingerprint(bert(), Words("a", "b")) == first
    assert LiveTeacher(bert(), TASK, Words("a", "b")).fingerprint == first
    assert len({first, fingerprint(model), fingerprint(model, Words("b", "a")), fingerprint(model.double())}) == 4
    changed = bert()
    with torch.no_grad():
        value = changed.classifier.weight[0, 0]
        value.copy_(torch.nextafter(value, torch.tensor(9.0)))
    assert fingerprint(changed, Words("a", "b")) != first


def test_the_fingerprint_reads_every_dtype_and_shape() -> None:
    module = nn.Module()
    for i, dtype in enumerate((torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float64)):
        module.register_buffer(f"b{i}", torch.ones(2, 3, dtype=dtype).t())
    module.register_buffer("scalar", torch.tensor(1.0))
    module.register_buffer("empty", torch.empty(0, 3))
    first = fingerprint(module)
    assert fingerprint(module) == first
    module.b4[0, 1] = 2  # type: ignore[index,operator]
    assert fingerprint(module) != first


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_logits_are_remembered_without_waiting() -> None:
    model = bert()
    teacher, counted = LiveTeacher(model, TASK).to("cuda"), Counted(model)
    batches = [batch([i, i + 1]).to(torch.device("cuda")) for i in (1, 3)]
    mixed, known = batch([1, 7]).to(torch.device("cuda")), batch([4, 2]).to(torch.device("cuda"))
    teacher.evaluate(mixed)  # kernels are loaded before the watch begins
    teacher.signals(batch([9]).to(torch.device("cuda")), LOGITS)  # and the first batch is asked twice, and compared
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        first = [teacher.signals(b, LOGITS).logits for b in batches]
        both = teacher.signals(mixed, LOGITS).logits
        again = teacher.signals(known, LOGITS).logits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(counted.calls) == 6
    assert torch.equal(again, torch.stack([first[1][1], first[0][1]]))  # type: ignore[index,arg-type]
    assert torch.equal(both[0], first[0][0])  # type: ignore[index]


class Masked(TextClassification):
    """One prediction a sample, of inputs that differ from epoch to epoch."""

    stochastic = True


def test_only_masked_language_modelling_hides_other_tokens_in_every_epoch() -> None:
    assert [name for name, task in TASKS.items() if task.stochastic] == ["masked-lm"]


def test_of_an_id_twice_in_a_batch_the_first_value_stays() -> None:
    memory, digests = LogitMemory(), torch.tensor([7, 7])
    memory.merge([5, 5], digests, torch.tensor([[1.0], [2.0]]))
    found = memory.recall([5], digests[:1], torch.device("cpu"))
    assert found is not None
    assert found.tolist() == [[1.0]]


def test_nothing_is_remembered_of_a_task_whose_inputs_differ_from_epoch_to_epoch() -> None:
    model = bert()
    teacher = LiveTeacher(model, Masked(["no", "yes"]))
    first, second = batch([4, 7]), batch([5, 9])
    second.ids = [4, 7]  # the same samples, masked anew
    teacher.signals(first, LOGITS)
    found = teacher.signals(second, LOGITS).logits
    assert found is not None
    with torch.no_grad():
        torch.testing.assert_close(found, model(**second.inputs).logits)
    assert teacher.state_dict() == {}
