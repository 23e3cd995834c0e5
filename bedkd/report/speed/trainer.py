"""The victim's training by `transformers.Trainer`, with the best of its documented settings."""

import tempfile
import time

import pandas as pd
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bedkd.core.config import VictimConfig
from bedkd.core.devices import Compute, synchronize
from bedkd.nn.classifier import Classifier
from bedkd.report.speed.turns import Timed


def trainer_arguments(
    config: VictimConfig, compute: Compute, folder: str, *, seed: int, epochs: int, workers: int
) -> TrainingArguments:
    """Rows of like length together, bfloat16 where the device has it, a fused AdamW, no clipping,
    and nothing logged, saved or evaluated.

    `workers`: processes that load data; with rows tokenized before, none is the fastest on a CPU.
    """
    is_cuda = compute.device.type == "cuda"
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.schedule,
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        bf16=compute.dtype == torch.bfloat16,
        train_sampling_strategy="group_by_length",
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=is_cuda,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=compute.device.type == "cpu",
        seed=seed,
    )


class EpochClock(TrainerCallback):
    """When each epoch ended."""

    def __init__(self):
        self.ended: list[float] = []

    def on_epoch_end(self, args, state, control, **kwargs):
        synchronize()
        self.ended.append(time.perf_counter())


def trainer_victim(
    start: Classifier,
    rows: pd.DataFrame,
    config: VictimConfig,
    *,
    seed: int,
    epochs: int,
    workers: int = 0,
) -> tuple[Classifier, Timed]:
    """A copy of `start` after so many epochs on rows text, label, which are tokenized before the
    clock starts. The attention is transformers' own choice, `sdpa`."""
    model, encoded, clock = start.copy(), start.encode(rows.text), EpochClock()
    model.model.set_attn_implementation("sdpa")
    pairs = zip(encoded.rows, rows.label, strict=True)
    data = [{"input_ids": ids.tolist(), "labels": int(label)} for ids, label in pairs]
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        options = {"seed": seed, "epochs": epochs, "workers": workers}
        trainer = Trainer(
            model=model.model,
            args=trainer_arguments(config, start.compute, folder, **options),
            train_dataset=data,
            data_collator=DataCollatorWithPadding(start.tokenizer),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
    model.model.eval()
    epoch = clock.ended[-1] - (clock.ended[-2] if epochs > 1 else started)
    return model, Timed(clock.ended[-1] - started, epoch, epochs)
