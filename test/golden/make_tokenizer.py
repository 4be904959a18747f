"""Makes tokenizer.json and tokenizer-smollm2.json: ids by Hugging Face tokenizers for texts in many scripts.

python make_tokenizer.py SMOLLM2.gguf    (pip install tokenizers==0.23.3 gguf==0.19.0)
Small vocabularies are trained here on the sentences below, so the unit test needs no model; the other file holds only the
ids that SmolLM2's own vocabulary (read from the GGUF) gives.
"""

import json
import sys
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent

TRAIN = [
    "The card was declined at the shop, and I'd like to know why it wasn't accepted.",
    "My balance hasn't changed since the transfer of 1200 euros on the 3rd of May 2021.",
    "We'll send a new card; you've got to confirm the address, they're waiting for it.",
    "aaabdaaabac aaabdaaabac bbbb bbb bb b",
    "Die Überweisung wurde gestern ausgeführt, aber der Betrag fehlt noch auf dem Konto.",
    "Le virement a été effectué hier, mais le montant n'apparaît pas sur le compte.",
    "перевод был отправлен вчера, но деньги ещё не пришли на счёт",
    "汇款昨天已经发出,但是钱还没有到账。",
    "    indented\n\tcode = value[0] + 42;\n\n\nreturn code\r\n",
    "12 345 6789 0.5 3.14159 1,000,000",
] * 3

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    " \n \n",
    "a",
    "Hello, world!",
    "Hello world's end; it's I'm you're we've they'll he'd 'twas 'S 'LL 'Re I\u2019m",
    "'\u017f and it'\u017f a long s",
    "123 4567 89012 1234567890 3.14159 1,000,000 007",
    "\u0661\u0662\u0663 \u0967\u0968 \u00bd \u00b2 \u216b \u2460 \u3007",
    "abc123def 1st 2nd v2.0.1 x86_64 a1b2c3",
    "   leading, trailing   ",
    "tab\tseparated\t\tvalues\r\nwindows\r\n\r\nlines\n\n\n   indented   \n",
    "a  b   c    d     1  2   3",
    "no\u00a0break\u2003em\u3000ideographic\u0085next\u2028line\ufeffbom\u200bzero\u180emongol",
    "\ufeffbyte order mark first",
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX!",
    "na\u00efve caf\u00e9 \u00fcber stra\u00dfe \u0152uvre \u0141\u00f3d\u017a \u0130stanbul",
    "e\u0301 combining \u0915\u094d\u0937\u093f \u0e01\u0e33\u0e25\u0e31\u0e07",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u0430\u043a \u0434\u0435\u043b\u0430?",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u03ba\u03cc\u03c3\u03bc\u03b5",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u12a0\u121b\u122d\u129b",
    "\U0001f600\U0001f389\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f44d\U0001f3fd!",
    "\U00020000 \U0001d54f\U0001d7d8 \U00010348 \U000e0041 \U0010fffd",
    "math: \u2211\u221e\u2260\u2264 x\u00b2+y\u00b2=z\u00b2 \u00b1\u00a35 \u20ac20 $3 50% #tag @user &amp;",
    "!!! ??? ... --- ___ === *** ((())) [[]] {{}} <> /\\ |~`",
    "function f(x) {\n    return x ** 2;  // square\n}\n",
    "https://example.org/path?q=1&r=two#frag user.name+tag@mail.example.org",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 4,
    "\u0000\u0001\u0007\u001b[0m control",
    "supercalifragilisticexpialidocious antidisestablishmentarianism pneumonoultramicroscopic",
    "We've been at the ticket desk since 9; didn't they say it'd open at half past 8?",
]

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def split(digits):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3 % digits), "isolated", False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    ),
    "llama-bpe": lambda: split(r"\p{N}{1,3}"),
    "qwen2": lambda: split(r"\p{N}"),
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def encoded(plain, special):
    return [
        {"text": t, "ids": plain.encode(t, add_special_tokens=False).ids, "special": special.encode(t, add_special_tokens=False).ids,
         "decoded": special.decode(special.encode(t, add_special_tokens=False).ids, skip_special_tokens=False)}
        for t in TEXTS
    ]


def small(name):
    made = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    made.pre_tokenizer = PRE[name]()
    made.decoder = decoders.ByteLevel()
    if name == "qwen2":
        made.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(TRAIN, trainer)
    plain = Tokenizer.from_str(made.to_str())
    made.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return {"tokenizer": json.loads(made.to_str()), "texts": encoded(plain, made)}


def smollm2(path):
    from gguf import GGUFReader

    fields = GGUFReader(path).fields

    def strings(key):
        return [bytes(fields[key].parts[i]).decode() for i in fields[key].data]

    tokens = strings("tokenizer.ggml.tokens")
    types = [int(fields["tokenizer.ggml.token_type"].parts[i][0]) for i in fields["tokenizer.ggml.token_type"].data]
    merges = [tuple(m.split(" ")) for m in strings("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, fuse_unk=False))
    made.pre_tokenizer = PRE["smollm"]()
    made.decoder = decoders.ByteLevel()
    plain = Tokenizer.from_str(made.to_str())
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    return {"texts": encoded(plain, made)}


versions = {"tokenizers": tokenizers.__version__}
out = {"versions": versions, "train": TRAIN, "small": {name: small(name) for name in PRE}}
(HERE / "tokenizer.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")
(HERE / "tokenizer-smollm2.json").write_text(json.dumps({"versions": versions, **smollm2(sys.argv[1])}, ensure_ascii=True, separators=(",", ":")) + "\n")
