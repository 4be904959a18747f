/** Tokenised label names as a trie, and the prompt they are asked with: the same in serving and in training. */
import { invalid } from '../../base/errors.ts';

export interface TrieNode {
  readonly children: Map<number, TrieNode>;
  /** Labels at or below this node. */
  readonly under: number[];
}

/** Throws 'invalid' when a label has no tokens or two labels have the same. */
export function labelTrie(labels: ReadonlyArray<readonly number[]>, terminator: number): TrieNode {
  const root: TrieNode = { children: new Map(), under: [] };
  for (const [index, tokens] of labels.entries()) {
    if (tokens.length === 0) throw invalid('labels', `label ${index} is empty`);
    let node = root;
    node.under.push(index);
    for (const token of [...tokens, terminator]) {
      const next: TrieNode = node.children.get(token) ?? { children: new Map(), under: [] };
      node.children.set(token, next);
      next.under.push(index);
      node = next;
    }
    if (node.under.length > 1) throw invalid('labels', `labels ${node.under.join(' and ')} are the same`);
  }
  return root;
}

/** Longest text of an example shown to the model, in tokens. */
const TEXT_TOKENS = 256;

export interface LabelPrompt {
  /** Tokens that every text's prompt begins with: the list of labels. */
  readonly lead: readonly number[];
  /** Token ids of each label's name. */
  readonly names: readonly (readonly number[])[];
  /** Ends a label that is the beginning of another. */
  readonly terminator: number;
  /** The whole prompt of a text, up to where the label begins. */
  prompt(text: string): number[];
}

/**
 * The list of labels comes first, so that it is evaluated once and stays in a sequence's cache for the texts after it.
 * @param options.start The token before every text, where the tokenizer asks for one.
 */
export function labelPrompt(
  labels: readonly string[],
  options: {
    tokenize: (text: string) => readonly number[];
    contextSize: number;
    start?: number | undefined;
    eosId?: number | undefined;
  },
): LabelPrompt {
  const { tokenize, contextSize, start, eosId } = options;
  const names = labels.map(label => tokenize(` ${readable(label)}`));
  const list = tokenize(`Labels: ${labels.map(readable).join(', ')}\n`);
  const tail = tokenize('\nLabel:');
  const room = contextSize - tail.length - Math.max(...names.map(name => name.length)) - 2;
  // A list that would leave the text no room is left out.
  const lead = [
    ...(start === undefined ? [] : [start]),
    ...(list.length + Math.min(TEXT_TOKENS, room / 2) <= room ? list : []),
  ];
  return {
    lead,
    names,
    terminator: tokenize('\n')[0] ?? eosId ?? 0,
    prompt: text => {
      const said = tokenize(`Message: ${text.replace(/\s+/g, ' ').trim()}`);
      return [...lead, ...said.slice(0, Math.min(TEXT_TOKENS, room - lead.length)), ...tail];
    },
  };
}

/** `card_lost` reads as "card lost": names are identifiers, and the model knows words. */
const readable = (label: string): string => label.replace(/[_\s]+/g, ' ').trim();
