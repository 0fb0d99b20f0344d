"""Small random models of the paper's classes in folders, with real tokenizers, and their data.

Nothing is downloaded: the tokenizers are made here, of the kind that the real models have.
"""

import json

import numpy as np

FLOWERS = ("fire_lily", "rose", "tree_mallow", "sunflower", "iris")
WORDS = ("hook", "run", "bank", "spring", "light", "match")


def llama(folder):
    """A LlamaForCausalLM of two layers with a byte-level BPE that puts <s> before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    texts = [" ".join(x[1:3]) + " mean the same in both? Answer: yes no" for x in wic(30, 0)] * 3
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=letters,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=bpe.get_vocab_size(), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
        max_position_embeddings=128, bos_token_id=0, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def clip(folder):
    """A CLIPModel of two small towers with CLIP's BPE, without merges, and its processor."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz.,_"
    ends = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *ends]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    about = {"tokenizer_class": "CLIPTokenizer", "bos_token": ends[0], "eos_token": ends[1]}
    about |= {"unk_token": ends[1], "pad_token": ends[1], "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"intermediate_size": 24, "initializer_factor": 5.0}
    text = {"vocab_size": len(tokens), "max_position_embeddings": 77}
    text |= {"bos_token_id": vocabulary[ends[0]], "eos_token_id": vocabulary[ends[1]]}
    text |= {"pad_token_id": vocabulary[ends[1]]}
    CLIPModel(
        CLIPConfig(
            text_config=tower | text,
            vision_config=tower | {"image_size": 16, "patch_size": 4, "hidden_size": 24},
            projection_dim=12,
        )
    ).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)


def wic(count, seed):
    """Rows of WiC: word, first sentence, second sentence, label."""
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        word, *others = draw.permutation(WORDS)
        first = " ".join([word, *others[: draw.integers(1, 5)]])
        rows.append((str(word), str(first), f"a {word} .", i % 2))
    return rows


def photographs(each, seed):
    """Images of every class of FLOWERS, of different sizes, and their labels."""
    from PIL import Image

    draw = np.random.default_rng(seed)
    labels = [label for label in range(len(FLOWERS)) for _ in range(each)]
    shapes = draw.integers(20, 30, size=(len(labels), 2))
    pixels = [
        draw.integers(40 * label, 40 * label + 80, size=(*shape, 3), dtype=np.uint8)
        for label, shape in zip(labels, shapes, strict=True)
    ]
    return [Image.fromarray(x) for x in pixels], labels


def hub(place, subset=None, *, split, **kept):
    """Stand in for datasets.load_dataset: the same columns and features, made here."""
    import datasets

    part = 0 if split == "train" else 1
    if "wic" in (subset, place):
        word, first, second, labels = zip(*wic(24 if part == 0 else 9, part), strict=True)
        columns = {"word": word, "sentence1": first, "sentence2": second, "label": labels}
        columns |= {"idx": range(len(labels)), "start1": [0] * len(labels)}
        kinds = {name: datasets.Value("string") for name in ("word", "sentence1", "sentence2")}
        kinds |= {name: datasets.Value("int32") for name in ("idx", "start1")}
        kinds |= {"label": datasets.ClassLabel(names=["False", "True"])}
    else:
        images, labels = photographs(4 if part == 0 else 2, part)
        columns = {"image": images, "label": labels}
        names = [name.replace("_", " ") for name in FLOWERS]
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    columns = {name: list(column) for name, column in columns.items()}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def folders(place):
    """Write the same data as folders: wic, flowers102, and this once more by a file of splits."""
    splits = {}
    (place / "wic").mkdir(parents=True)
    for seed, part, count, each in ((0, "train", 24, 4), (1, "test", 9, 2)):
        rows = wic(count, seed)
        lines = [f"{word}\tN\t0-0\t{first}\t{second}\n" for word, first, second, _ in rows]
        (place / f"wic/{part}.data.txt").write_text("".join(lines))
        (place / f"wic/{part}.gold.txt").write_text("".join("FT"[row[3]] + "\n" for row in rows))
        pictures = list(zip(*photographs(each, seed), strict=True))
        for i, (image, label) in enumerate(pictures):
            folder = place / "flowers102" / part / FLOWERS[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{i:02d}.png")
        (place / "flowers102/jpg").mkdir(exist_ok=True)
        rest = {"train": ("train",), "test": ("val", "test")}[part]
        for name in rest:
            for i, (image, _) in enumerate(pictures):
                image.save(place / f"flowers102/jpg/{name}{i:02d}.jpg")
            splits[name] = [
                [f"{name}{i:02d}.jpg", label, FLOWERS[label].replace("_", " ")]
                for i, (_, label) in enumerate(pictures)
            ]
    file = place / "flowers102/split_zhou_OxfordFlowers.json"
    file.write_text(json.dumps(splits))
