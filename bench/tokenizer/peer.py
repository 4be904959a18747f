"""Hugging Face tokenizers, asked in JSON lines: train and encode the same texts, timed here without the transfer."""

import json
import sys
import time

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def pre():
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )


loaded = None
for line in sys.stdin:
    question = json.loads(line)
    if question["do"] == "train":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre()
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=question["vocab"], special_tokens=[], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        began = time.perf_counter()
        tokenizer.train_from_iterator(question["texts"], trainer)
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "merges": json.loads(tokenizer.to_str())["model"]["merges"]}
    else:
        if "tokenizer" in question:
            loaded = Tokenizer.from_str(json.dumps(question["tokenizer"]))
        began = time.perf_counter()
        ids = [loaded.encode(text, add_special_tokens=False).ids for text in question["texts"]]
        answer = {"seconds": time.perf_counter() - began, "ids": ids if question.get("ids") else []}
    print(json.dumps(answer), flush=True)
