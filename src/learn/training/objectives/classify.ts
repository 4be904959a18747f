import { invalid } from '../../../base/errors.ts';
import { type LabelPrompt, labelPrompt, labelTrie, type TrieNode } from '../../llama/label-trie.ts';
import type { Example } from '../../model/engine/units.ts';
import { BpeTokenizer } from '../../model/tokenizer/bpe.ts';
import type { Tokenizer } from '../../model/types.ts';
import { choiceLoss } from './losses.ts';
import type { Item } from './objective.ts';

/** Tokens of a label scorer's context at most: labels, text and name together (llama/label-scorer.ts). */
const CONTEXT_TOKENS = 2048;

/**
 * Classification by label scoring, trained on exactly what is served: the labels are listed, the text follows, and where labels part
 * the next token is chosen among those that lead to a label. The loss is minus the logarithm of the label's probability along
 * its path; a node with one way on costs nothing. (Serving then divides by the probabilities for texts without content, which is
 * left out here: that correction belongs to whatever weights are served.)
 */
export class LabelItems {
  readonly labels: readonly string[];
  readonly #prompt: LabelPrompt;
  readonly #root: TrieNode;

  /** @throws LearndError('invalid') when labels are empty or the same to the tokenizer. */
  constructor(labels: readonly string[], tokenizer: Tokenizer, contextLength: number) {
    if (labels.length < 2) throw invalid('labels', 'a classifier needs at least two labels');
    this.labels = labels;
    this.#prompt = labelPrompt(labels, {
      tokenize: text => tokenizer.encode(text),
      contextSize: Math.min(CONTEXT_TOKENS, contextLength),
      start: tokenizer instanceof BpeTokenizer && tokenizer.spec.addBos === true ? tokenizer.bosId : undefined,
      eosId: tokenizer.eosId,
    });
    this.#root = labelTrie(this.#prompt.names, this.#prompt.terminator);
  }

  /** One sequence for each token that may come next at a node on the label's path: the fewer labels part, the cheaper. */
  item(text: string, label: string): Item {
    const index = this.labels.indexOf(label);
    if (index < 0) throw invalid('label', `"${label}" is not one of the labels`);
    const prompt = this.#prompt.prompt(text);
    const sequences: Example[] = [];
    const nodes: { members: number[]; target: number }[] = [];
    this.#walk(index, (path, children, next) => {
      const first = sequences.length;
      for (const child of children) sequences.push(lastScored([...prompt, ...path, child]));
      nodes.push({ members: children.map((_, i) => first + i), target: first + children.indexOf(next) });
    });
    return { sequences, referenced: false, loss: logProbabilities => choiceLoss(logProbabilities, nodes) };
  }

  /** The nodes with a choice on the way to a label. */
  #walk(label: number, visit: (path: readonly number[], children: readonly number[], next: number) => void): void {
    const path: number[] = [];
    for (let node = this.#root; node.under.length > 1; ) {
      const [token, child] = [...node.children].find(([, below]) => below.under.includes(label))!;
      if (node.children.size > 1) visit([...path], [...node.children.keys()], token);
      path.push(token);
      node = child;
    }
  }
}

const lastScored = (tokens: readonly number[]): Example => ({
  tokens,
  mask: tokens.map((_, t) => t === tokens.length - 1),
});
