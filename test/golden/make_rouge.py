"""ROUGE-L of rouge_score 0.1.2 (no stemmer) and SQuAD 1.1's normalisation: writes rouge.json.  Run: python make_rouge.py > rouge.json"""
import json
import random
import re
import string

from rouge_score import rouge_scorer

scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)


def squad(s):
    """normalize_answer of the SQuAD 1.1 evaluation script."""
    s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())


random.seed(4)
WORDS = "the card was late so we called a bank and an agent said that it is on its way again".split()
pairs = [("", ""), ("the cat", ""), ("", "a dog"), ("The cat sat.", "the CAT, sat!"), ("It's 12.5 km", "its 12 5 km"), ("a b c d e", "e d c b a"),
         ("Überweisung fehlt noch", "Die Überweisung fehlt"), ("东京 tower", "tower 东京"), ("x_y-z", "x y z"), ("An apple a day, the end", "apple day end"),
         ("the\u00a0theatre\u2003an\u0085ant", "theatre ant"), ("naïve a-b the.", "the naïve ab")]
for n in (5, 12, 40, 90):
    pairs += [(" ".join(random.choices(WORDS, k=n)), " ".join(random.choices(WORDS, k=random.randint(1, n + 8)))) for _ in range(4)]
cases = []
for reference, answer in pairs:
    r = scorer.score(reference, answer)["rougeL"]
    cases.append({"reference": reference, "answer": answer, "precision": r.precision, "recall": r.recall, "f1": r.fmeasure, "normalized": squad(reference)})
multi = []
for _ in range(4):
    references, answer = [" ".join(random.choices(WORDS, k=10)) for _ in range(3)], " ".join(random.choices(WORDS, k=9))
    multi.append({"references": references, "answer": answer, "f1": scorer.score_multi(references, answer)["rougeL"].fmeasure})
print(json.dumps({"source": "rouge_score 0.1.2", "cases": cases, "multi": multi}, separators=(",", ":")))
