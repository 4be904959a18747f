"""Makes tokenizer.json and tokenizer-smollm2.json: ids by Hugging Face tokenizers for texts in many scripts.

python make_tokenizer.py SMOLLM2.gguf    (pip install tokenizers==0.23.3 gguf==0.19.0)
Small vocabularies are trained here on the sentences below, so the unit test needs no model; the other file holds only the
ids that SmolLM2's own vocabulary (read from the GGUF) gives.
"""

import json
import sys
from collections import Counter
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
    # One or two words of further scripts, with their marks and digits.
    "\u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd \u0ba8\u0ba9\u0bcd\u0bb1\u0bbf \u0bb0\u0bc2\u0be7\u0be8",  # Tamil
    "\u0986\u09ae\u09be\u09b0 \u0995\u09be\u09b0\u09cd\u09a1 \u09e7\u09e8\u09e9\u0964",  # Bengali
    "\u0c28\u0c2e\u0c38\u0c4d\u0c15\u0c3e\u0c30\u0c02 \u0ca8\u0cae\u0cb8\u0ccd\u0c95\u0cbe\u0cb0 \u0d28\u0d2e\u0d38\u0d4d\u0d15\u0d3e\u0d30\u0d02",  # Telugu, Kannada, Malayalam
    "\u0a38\u0a24 \u0a38\u0a4d\u0a30\u0a40 \u0ab8\u0ab0\u0ab8 \u0b28\u0b2e\u0b38\u0b4d\u0b15\u0b3e\u0b30 \u0d86\u0dba\u0dd4\u0db6\u0ddd\u0dc0\u0db1\u0dca",  # Gurmukhi, Gujarati, Odia, Sinhala
    "\u179f\u17bd\u179f\u17d2\u178f\u17b8 \u1019\u1004\u103a\u1039\u1002\u101c\u102c\u1015\u102b \u0eaa\u0eb0\u0e9a\u0eb2\u0e8d\u0e94\u0eb5",  # Khmer, Burmese, Lao
    "\u0f56\u0f40\u0fb2\u0f0b\u0f64\u0f72\u0f66\u0f0b \u1826\u1820\u1828\u1830\u182e \u13a3\u13cf\u13f4",  # Tibetan, Mongolian, Cherokee
    "\u0532\u0561\u0580\u0587 \u0540\u0561\u0575 \u055e \u2c00\u2c30 \u2cf9",  # Armenian, Glagolitic, Coptic
    "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627\u061f \u06f1\u06f2\u06f3 \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd\u05be",  # Arabic and Hebrew with vowels
    "\u0780\u07a8\u0782\u07b0 \u07ca\u07de\u07cf \u0710\u072b\u0720\u0721\u0710 \ua9b2\ua9ae",  # Thaana, N'Ko, Syriac, Javanese
    "Ti\u1ebfng Vi\u1ec7t Tie\u0302\u0301ng Vie\u0323\u0302t \u0131\u0130\u011f\u015f k\u02bcop \u01c0xam",  # Vietnamese in both forms, Turkish, a click
    "\u1112\u1161\u11ab\u1100\u1173\u11af \u30cf\u3099\u30d3 \u30d0\u30d3 \uff76\uff9e \u3105\u3106",  # Jamo, kana with marks, half width, Bopomofo
    "\U00010330\U00010331 \U000103a0 \U0001d400\U0001d51e\U0001d7ce \U0001f100 \u2160\u2180 \u0bf0 \u0f2a \U00010107",  # old scripts, numbers of other kinds
    "a\u200db\u200cc\u2060d\u00ade\u200ef\u202eg\u2066h \ufe0e\ufe0f \ufffc\ufff9",  # joiners and directions
    "\ue000\uf8ff \U000f0000 \ufdd0\uffff\U0001fffe \u0378",  # private, no characters, unassigned
    "1\u00b2\u00bc\u2155 \u0663\u0664.\u0665 12\u066b5 1_000 0x1F 1e-5 \u2462\u3283 N\u00ba5 v1.2.3-rc4",
    "don\u2019t DON'T Don't'll 're're '\u0441 x'S\u00df o'Neil's rock'n'roll ''s' ' s",
    "\x0b\x0c\x1c\x1d\x1e\x1f\x85\u1680\u2000\u200a\u202f\u205f\u3000x \x7f\x80\x9f",
    "line\r\rone\n\r\n\n \t \n  two \u2028\u2029 three   ",
]

# Domain words for a vocabulary to grow by; "cardcard" and "the the" merge tokens that exist.
DOMAIN = [
    "chargeback chargeback chargebacks of the contactless top-up, top-up fee",
    "The chargeback on my contactless card: cardcard? the the topup fees",
    "\u00dcberweisungsgeb\u00fchr \u00dcberweisungsgeb\u00fchren fallen an, contactless",
    "<|endoftext|> <|im_start|>user chargeback<|im_end|>",
    "\u043f\u043b\u0430\u0442\u0451\u0436 \u043f\u043b\u0430\u0442\u0451\u0436 \u043d\u0435 \u043f\u0440\u043e\u0448\u0451\u043b 2021 2021 42",
] * 2

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


def grow(name, add):
    """Byte-pair merging that goes on from a trained vocabulary, pair by pair, the slow way."""
    base = small(name)["tokenizer"]
    made = Tokenizer.from_str(json.dumps(base))
    plain = json.loads(json.dumps(base))
    plain["added_tokens"] = []
    cutter = Tokenizer.from_str(json.dumps(plain))
    tokens = {i: t for t, i in made.get_vocab(with_added_tokens=True).items()}
    ids = {t: i for i, t in tokens.items()}
    words = [([t.id for t in cutter.model.tokenize(piece)], 1) for text in DOMAIN
             for piece, _ in cutter.pre_tokenizer.pre_tokenize_str(text)]
    merges, size = [], len(tokens)
    while len(tokens) < size + add:
        counts = Counter(pair for word, n in words for pair in zip(word, word[1:]))
        counts = {p: c for p, c in counts.items() if c > 1 and tokens[p[0]] + tokens[p[1]] not in SPECIALS}
        if not counts:
            break
        left, right = min(counts, key=lambda p: (-counts[p], p))
        text = tokens[left] + tokens[right]
        if text not in ids:
            ids[text] = len(tokens)
            tokens[len(tokens)] = text
        merges.append([tokens[left], tokens[right]])
        for word, _ in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == (left, right):
                    word[i : i + 2] = [ids[text]]
                i += 1
    grown = json.loads(json.dumps(base))
    grown["model"]["vocab"] = {t: i for i, t in sorted(tokens.items())}
    grown["model"]["merges"] = [m if isinstance(m, list) else m.split(" ") for m in grown["model"]["merges"]] + merges
    special = Tokenizer.from_str(json.dumps(grown))
    assert all(special.token_to_id(s) == made.token_to_id(s) for s in SPECIALS)
    unspecial = json.loads(json.dumps(grown))
    unspecial["added_tokens"] = []
    return {"add": add, "tokens": [tokens[i] for i in range(size, len(tokens))], "merges": merges,
            "texts": [{"text": t, "ids": Tokenizer.from_str(json.dumps(unspecial)).encode(t, add_special_tokens=False).ids,
                       "special": special.encode(t, add_special_tokens=False).ids} for t in DOMAIN[: len(DOMAIN) // 2] + TEXTS[:12]]}


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
out = {"versions": versions, "train": TRAIN, "small": {name: small(name) for name in PRE}, "domain": DOMAIN,
       "grown": {"smollm": grow("smollm", 40), "llama-bpe": grow("llama-bpe", 1000)}}
(HERE / "tokenizer.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")
(HERE / "tokenizer-smollm2.json").write_text(json.dumps({"versions": versions, **smollm2(sys.argv[1])}, ensure_ascii=True, separators=(",", ":")) + "\n")
