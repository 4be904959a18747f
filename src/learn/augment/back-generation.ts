import { invalid } from '../../base/errors.ts';
import type { ChatMessage } from '../model/chat.ts';
import { type ModelAugmentOptions, type ModelVariants, sampled } from './paraphrase.ts';

const WRITER = 'You write messages as people send them, one sentence or two.';
const WRITTEN = [
  ['parcel not delivered', 'Where is the parcel that I ordered last week?'],
  ['heating broken', 'The heating in my flat has not worked since yesterday.'],
  ['change appointment', 'Can I move my appointment to Friday?'],
] as const;

/** What a new text is written for. */
export interface Wanted {
  readonly label: string;
  /** An answer it should get. It is somebody's: so is then the text. */
  readonly answer?: string;
}

const topic = (label: string): string => label.replace(/[_\s]+/g, ' ').trim();

/**
 * New texts for labels, written by a chat model: a text is kept when of all the labels' names its own is the nearest. From labels alone
 * nothing private goes in, so what comes out is public; with an answer it belongs to the answer's privacy unit.
 * @param about who writes to whom, in a few public words, such as "a customer writes to a bank"
 */
export async function backGenerate(
  wanted: readonly Wanted[],
  options: ModelAugmentOptions & { readonly about?: string },
): Promise<ModelVariants> {
  const { meaning, about = 'a person writes to a help desk' } = options;
  const ask = (label: string, answer?: string): string =>
    `${about[0]!.toUpperCase()}${about.slice(1)}. Write the message. It is about: ${topic(label)}${
      answer === undefined ? '' : `\nThe answer to it will be: ${answer}`
    }`;
  if (about.trim() === '') throw invalid('about', 'says nothing');
  const examples = WRITTEN.flatMap(([label, text]): ChatMessage[] => [
    { role: 'user', content: ask(label) },
    { role: 'assistant', content: text },
  ]);
  return await sampled(wanted, options, async ({ label, answer }) => ({
    operation: 'back-generation',
    key: answer === undefined ? label : `${label}\n${answer}`,
    messages: [{ role: 'system', content: WRITER }, ...examples, { role: 'user', content: ask(label, answer) }],
    // An answer said again is no inquiry.
    prompt: [WRITER, about, ...WRITTEN.map(([, text]) => text), ...(answer === undefined ? [] : [answer])],
    survives: found => (meaning.nearest(found) === label ? undefined : 'label'),
  }));
}
