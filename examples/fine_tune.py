"""Train a LoRA adapter with PEFT on JSON lines of image, prefix and suffix, and save it.

    python examples/fine_tune.py export/demo/paligemma-scenes dataset/train/annotations.jsonl --output adapter

The processor of transformers turns `suffix` into labels and token types: image and prefix attend to each
other in both directions, and the loss is on the answer only. docs/fine-tuning.md has the next steps.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

# The linear layers that trainers of PaliGemma adapt. The names of the first three also occur in SigLIP.
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Train the adapter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="folder or Hub id of the base model")
    parser.add_argument("annotations", type=Path, help="JSON lines with image, prefix and suffix")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16, help="examples per step")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--rank", type=int, default=8)
    arguments = parser.parse_args()

    random.seed(0)
    torch.manual_seed(0)
    rows = [json.loads(line) for line in arguments.annotations.read_text(encoding="utf-8").splitlines()]
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    base = PaliGemmaForConditionalGeneration.from_pretrained(arguments.checkpoint, dtype=torch.float32)
    config = LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=LAYERS)
    model = get_peft_model(base, config).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=arguments.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.learning_rate, total_steps=arguments.steps, pct_start=0.1
    )
    for step in range(1, arguments.steps + 1):
        batch = random.sample(rows, arguments.batch)
        inputs = processor(
            text=["<image>" + row["prefix"] for row in batch],
            images=[Image.open(arguments.annotations.parent / row["image"]).convert("RGB") for row in batch],
            suffix=[row["suffix"] for row in batch],
            padding="longest",
            return_tensors="pt",
        )
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step} of {arguments.steps}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
