/**
 * A language model as a classifier without training: the probability of each label as the continuation of a prompt, decoding held to
 * the trie of the tokenised label names. At a node with several children the next-token probabilities are normalised over the
 * children; a node with one child needs no evaluation. A label's probability is the product along its path, so they sum to 1.
 */
import type { LlamaContextSequence, Token } from 'node-llama-cpp';
import { labelTrie, type TrieNode } from './label-trie.ts';
import { type LogitBias, tokenBias } from './logit-bias.ts';

export { labelTrie, type TrieNode } from './label-trie.ts';

export interface LabelScoreOptions {
  /** The prompt, ending where the label begins. */
  tokens: readonly number[];
  /** Token ids of each label name; not empty, no two the same. */
  labels: ReadonlyArray<readonly number[]>;
  /** Ends a label that is the beginning of another (end of turn, or newline). */
  terminator: number;
  logitBias?: LogitBias;
  /** A branch with less than this probability is not evaluated; its mass is shared evenly by the labels under it. Default 0.001. */
  negligible?: number;
  signal?: AbortSignal;
}

export interface LabelScore {
  /** In the order given; sums to 1. */
  probabilities: Float32Array;
  /** Nodes evaluated by the model. */
  evaluations: number;
}

/**
 * Puts the children so far above every other token that a top-k cut leaves exactly them, already normalised: no 49k-entry table
 * crosses into JavaScript for each node. Large against any spread of logits, small enough to keep float32's fifth digit.
 */
const LIFT = 100;

/** The sequence must hold all but the last token of the prompt. Leaves it there again. */
export async function scoreLabels(sequence: LlamaContextSequence, options: LabelScoreOptions): Promise<LabelScore> {
  const root = labelTrie(options.labels, options.terminator);
  const probabilities = new Float32Array(options.labels.length);
  const negligible = options.negligible ?? 1e-3;
  const start = options.tokens.length - 1;
  let evaluations = 0;

  const childProbabilities = async (
    path: readonly number[],
    children: readonly number[],
  ): Promise<Map<number, number>> => {
    options.signal?.throwIfAborted();
    await sequence.eraseContextTokenRanges([{ start, end: sequence.nextTokenIndex }]);
    const input = [options.tokens[start]!, ...path] as Token[];
    const last = input.length - 1;
    const bias = tokenBias(sequence.model, [
      ...(options.logitBias ?? []),
      ...children.map(token => [token, LIFT] as const),
    ]);
    const output = await sequence.controlledEvaluate(
      input.map((token, index) =>
        index < last
          ? token
          : [
              token,
              {
                generateNext: {
                  probabilities: true,
                  options: {
                    temperature: 1,
                    topK: children.length,
                    topP: 1,
                    minP: 0,
                    ...(bias && { tokenBias: bias }),
                  },
                },
              },
            ],
      ),
    );
    evaluations++;
    const all = output[last]?.next.probabilities ?? new Map<Token, number>();
    const found = children.map(token => all.get(token as Token) ?? 0);
    const total = found.reduce((sum, p) => sum + p, 0);
    return new Map(children.map((token, i) => [token, total > 0 ? found[i]! / total : 1 / children.length]));
  };

  const visit = async (node: TrieNode, path: readonly number[], mass: number): Promise<void> => {
    if (node.under.length === 1) {
      probabilities[node.under[0]!] = mass;
      return;
    }
    if (mass < negligible) {
      for (const label of node.under) probabilities[label] = mass / node.under.length;
      return;
    }
    const children = [...node.children.keys()];
    if (children.length === 1) {
      await visit(node.children.get(children[0]!)!, [...path, children[0]!], mass);
      return;
    }
    const shares = await childProbabilities(path, children);
    for (const token of children) await visit(node.children.get(token)!, [...path, token], mass * shares.get(token)!);
  };

  await visit(root, [], 1);
  await sequence.eraseContextTokenRanges([{ start, end: sequence.nextTokenIndex }]);
  return { probabilities, evaluations };
}
