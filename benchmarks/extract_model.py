"""A model that answers the prompts of the extraction benchmark in the trained format: the embedded base, briefly trained."""

import hashlib
import json
import random
from pathlib import Path

from workloads import make_workload

from whet.backends.base import LoraSettings, OptimizerSettings
from whet.backends.open import open_backend
from whet.models.base_model import open_base
from whet.train.batches import pack_rows

STEPS, ROWS, RATE, SEED = 60, 32, 3e-3, 0


def train_adapter(data: Path, folder: Path) -> Path:
    """An adapter that answers the long and the short instruction in the trained format; made once, kept in `folder`."""
    told = hashlib.sha256(json.dumps([STEPS, ROWS, RATE, SEED, Path(__file__).read_text("utf-8")]).encode()).hexdigest()[:12]
    done = folder / f"adapter-{told}"
    if (done / "adapter_config.json").is_file():
        return done
    rows = []
    for name in ("a", "b"):
        rows += make_workload(name, STEPS * ROWS // 2, 0, data, folder / "tokenizer", seed=1).train
    backend = open_backend(open_base("embedded"), OptimizerSettings())
    backend.attach(LoraSettings(rank=16), seed=SEED)
    random.Random(SEED).shuffle(rows)
    for step in range(STEPS):
        result = backend.update(pack_rows(rows[step * ROWS : (step + 1) * ROWS], 4096), RATE * (1 - step / STEPS))
        if step % 20 == 0:
            print(
                f"training an adapter to ask: step {step} of {STEPS}, loss {result.loss_sum / result.num_learnt:.3f}", flush=True
            )
    done.mkdir(parents=True)
    backend.save_adapter(done)
    return done
