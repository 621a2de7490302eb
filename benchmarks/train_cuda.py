"""Speed, memory and arithmetic of LoRA training on a CUDA card, in bf16, on random models of Qwen2.5's 3B and 7B shapes.

NOT YET RUN: no card was at hand when it was written. It is train_speed.py on a card: same workloads, same systems, same options
and the same last line; memory is that of the tensors on the card, and the matrix rate that of bf16 products. TRL's search tries
padding_free and packing with the attention that transformers chooses; Unsloth is not measured. The models take 6 and 15 GB in
the folder for temporary files (TMPDIR).

    python benchmarks/train_cuda.py --search --model 3B --workload a,c
"""

import sys

from train_speed import measure_all, parse


def main() -> None:
    import torch

    args = parse(__doc__, "3B,7B")
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA card here; train_speed.py measures on the CPU")
    args.device = "cuda"
    args.tokens_per_batch = args.tokens_per_batch or 16_384
    measure_all(args)


if __name__ == "__main__":
    main()
