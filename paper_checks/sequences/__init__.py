"""Tasks in turn: what LoRA, SD-LoRA and a pool of pairs forget, alone and between agents."""
