import os
from threading import Thread
from typing import Optional

import emoji
import torch
from cog import BasePredictor, ConcatenateIterator, Input, current_scope
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

MODEL = "smollm2"


class Predictor(BasePredictor):
    def setup(self) -> None:
        """Load the model into memory to make running multiple predictions efficient"""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL, trust_remote_code=True)
        self.model = AutoModelForCausalLM.from_pretrained(
            MODEL, torch_dtype=torch.bfloat16, device_map="auto", low_cpu_mem_usage=True
        ).to(device)
        self.model.eval()
        with open(os.path.join(os.path.dirname(__file__), "system.txt")) as file:
            self.system = file.read().strip()

    @torch.inference_mode()
    def predict(
        self,
        prompt: str = Input(description="Message to the assistant", min_length=1),
        system_prompt: Optional[str] = Input(description="Replaces the assistant's instructions"),
        max_new_tokens: int = Input(default=64, ge=1, le=512),
        temperature: float = Input(default=0.0, ge=0.0, le=2.0, description="0 is greedy"),
        top_p: float = Input(default=1.0, ge=0.01, le=1.0),
        seed: Optional[int] = Input(description="Random seed"),
    ) -> ConcatenateIterator[str]:
        """Answers a message, word by word."""
        if seed is not None:
            torch.manual_seed(seed)
        messages = [
            {"role": "system", "content": system_prompt or self.system},
            {"role": "user", "content": emoji.demojize(prompt)},
        ]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = self.tokenizer([text], return_tensors="pt").to(self.model.device)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = dict(**inputs, streamer=streamer, max_new_tokens=max_new_tokens)
        if temperature > 0:
            options.update(do_sample=True, temperature=temperature, top_p=top_p)
        thread = Thread(target=self.model.generate, kwargs=options)
        thread.start()
        pieces = 0
        for piece in streamer:
            pieces += 1
            yield piece
        thread.join()
        print(f"{pieces} pieces")
        current_scope().record_metric("pieces", pieces)
