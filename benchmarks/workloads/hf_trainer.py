"""Hugging Face's Trainer: a small BERT from its configuration, random tokens."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import tempfile

import torch
from common import arguments, finish, run_for
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

args = arguments()


class Sentences(torch.utils.data.Dataset):
    def __init__(self, count):
        self.tokens = torch.randint(5, 1000, (count, 64))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        tokens = self.tokens[index]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens[0] % 2}


class Timer(TrainerCallback):
    def on_train_begin(self, *_, **__):
        self.clock = run_for(args.seconds)

    def on_step_end(self, arguments, state, control, **__):
        if not self.clock.step():
            control.should_training_stop = True


timer = Timer()
model = BertForSequenceClassification(BertConfig(
    vocab_size=1000, hidden_size=256, num_hidden_layers=3, num_attention_heads=4, intermediate_size=1024, num_labels=2,
))
if args.compile:
    model = torch.compile(model)
with tempfile.TemporaryDirectory() as folder:
    Trainer(
        model,
        TrainingArguments(
            folder, per_device_train_batch_size=8, max_steps=100_000, bf16=args.bf16, use_cpu=True, report_to=[],
            dataloader_num_workers=args.workers, dataloader_persistent_workers=args.workers > 0, save_strategy="no",
            disable_tqdm=True, logging_steps=100_000,
        ),
        optimizers=(torch.optim.AdamW(model.parameters(), lr=5e-5, **args.implementation), None),
        train_dataset=Sentences(40_000),
        callbacks=[timer],
    ).train()
finish(timer.clock)
