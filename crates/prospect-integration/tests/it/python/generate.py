"""Greedy replies by transformers, one object a line."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

MAX_NEW_TOKENS = 6
EOS = 2


def main():
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    for line in sys.stdin:
        prompt = torch.tensor([json.loads(line)["prompt_ids"]])
        reply = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
        ids = reply[0, prompt.shape[1] :].tolist()
        finished = EOS in ids
        print(json.dumps({"token_ids": ids[: ids.index(EOS)] if finished else ids, "finished": finished}))


main()
