import { createHash } from 'node:crypto';
import type { LearndEvent } from '../../events/event.ts';
import type { NewDocument } from '../../store/documents.ts';
import type { NewFeedback, ReferredExchange } from '../../store/feedback.ts';
import type { Fingerprint } from '../curate/duplicates.ts';
import { redact } from '../curate/redact.ts';
import { sketch, sketchBytes } from '../curate/sketch.ts';
import { splitKey, splitOf, unitOf } from '../curate/split.ts';

/**
 * From an event to the row it becomes. Pure: the event, the exchange it refers to and the settings decide everything but the
 * event's id and what the unit said before.
 */

/** What of the settings decides about rows. */
export interface Rules {
  readonly secret: Uint8Array;
  readonly holdout: number;
  readonly tasks: ReadonlyMap<string, ReadonlySet<string>>;
  readonly publicSources: ReadonlySet<string>;
}

type Row<T> = Omit<T, 'event' | 'unit' | 'sketch' | 'content_hash'>;

export type Draft = {
  readonly user: string | undefined;
  readonly print: Fingerprint;
  /** Of every redacted form, how often. */
  readonly redactions: number;
} & (
  | { readonly kind: 'feedback'; readonly row: Row<NewFeedback> }
  | { readonly kind: 'document'; readonly row: Row<NewDocument>; readonly original: string }
);

/** The last thing the user said: what an answer answered, what a label labels. */
export function promptOf(input: unknown): string | undefined {
  if (typeof input === 'string') return input;
  if (!Array.isArray(input)) return undefined;
  const messages = input as { role?: unknown; content?: unknown }[];
  const last = messages.findLast(message => message.role === 'user') ?? messages.at(-1);
  if (typeof last?.content === 'string') return last.content;
  if (!Array.isArray(last?.content)) return undefined;
  return (last.content as { text?: unknown }[]).map(part => (typeof part.text === 'string' ? part.text : '')).join('');
}

const digest = (parts: readonly unknown[]): string => createHash('sha256').update(JSON.stringify(parts)).digest('hex');

/** Whose event it is: as it says itself, else whose exchange it is about. */
export function userOf(event: LearndEvent, exchange: ReferredExchange | undefined): string | undefined {
  return event.data.user ?? exchange?.user_id ?? undefined;
}

export const responseIdOf = (event: LearndEvent): string | undefined =>
  'response_id' in event.data ? event.data.response_id : undefined;

type FeedbackEvent = Extract<LearndEvent, { type: `learnd.feedback.${string}` }>;

function feedbackDraft(event: FeedbackEvent, found: ReferredExchange | undefined, rules: Rules): Draft {
  const user = userOf(event, found);
  // One person's feedback on another's exchange must not carry the other's words into this unit.
  const foreign = found !== undefined && found.user_id !== null && found.user_id !== user;
  const exchange = foreign ? undefined : found;
  const missing = foreign ? 'other_user' : 'unmatched';
  let redactions = 0;
  const clean = <T extends string | undefined>(value: T): T => {
    if (value === undefined) return value;
    const { text, found: forms } = redact(value);
    for (const n of Object.values(forms)) redactions += n;
    return text as T;
  };
  const asked = exchange && promptOf(exchange.input);
  const base = { user_id: user, region: event.data.region, consent: event.data.consent };
  let row: Omit<Row<NewFeedback>, 'split'>;
  /** Read for near duplicates, and for the split where there is no user. */
  let content = '';
  switch (event.type) {
    case 'learnd.feedback.rating': {
      const { response_id, value, comment } = event.data;
      row = {
        ...base,
        kind: 'rating',
        response_id,
        value,
        comment: clean(comment),
        prompt: clean(asked),
        text: clean(exchange?.output),
        excluded: exchange === undefined ? missing : undefined,
      };
      break;
    }
    case 'learnd.feedback.label': {
      const { task, label, response_id } = event.data;
      const text = clean(event.data.text ?? asked);
      const undeclared = rules.tasks.get(task)?.has(label) !== true;
      const excluded = text === undefined ? missing : undeclared ? 'undeclared' : undefined;
      row = { ...base, kind: 'label', task, label, text, response_id, excluded };
      content = text ?? '';
      break;
    }
    case 'learnd.feedback.correction': {
      const prompt = clean(event.data.prompt ?? asked);
      const ideal = clean(event.data.ideal);
      const excluded = prompt === undefined ? missing : undefined;
      row = { ...base, kind: 'correction', prompt, ideal, response_id: event.data.response_id, excluded };
      content = `${prompt ?? ''}\n${ideal}`;
      break;
    }
    case 'learnd.feedback.preference': {
      const [prompt, chosen, rejected] = [event.data.prompt, event.data.chosen, event.data.rejected].map(clean);
      row = { ...base, kind: 'preference', prompt, chosen, rejected };
      content = `${prompt}\n${chosen}\n${rejected}`;
      break;
    }
  }
  const { kind, task, label, text, prompt, ideal, chosen, rejected, value, comment, response_id } = row;
  const hash = digest([kind, task, label, text, prompt, ideal, chosen, rejected, value, comment, response_id]);
  return {
    kind: 'feedback',
    user,
    redactions,
    // Without content (a rating of an unknown answer) what was said is the split's key.
    row: { ...row, split: splitOf(rules.secret, splitKey(user, content === '' ? hash : content), rules.holdout) },
    print: { class: classOf(row), hash, sketch: sketch(content) },
  };
}

/** Near duplicates are looked for among rows of one class. */
export const classOf = (row: {
  kind: string;
  task?: string | null | undefined;
  label?: string | null | undefined;
}): string => JSON.stringify([row.kind, row.task ?? null, row.label ?? null]);

/** The unit that all public documents without a user share when duplicates are looked for. */
export const DOCUMENT = classOf({ kind: 'document' });

function documentDraft(event: Extract<LearndEvent, { type: 'learnd.document' }>, rules: Rules): Draft {
  const { text: original, title: givenTitle, user, source, ...rest } = event.data;
  const body = redact(original);
  const title = givenTitle === undefined ? undefined : redact(givenTitle).text;
  const content = body.text.trim();
  return {
    kind: 'document',
    user,
    original,
    redactions: Object.values(body.found).reduce((sum, n) => sum + n, 0),
    row: {
      user_id: user,
      region: rest.region,
      consent: rest.consent,
      license: rest.license,
      published_at: rest.published_at,
      source,
      title,
      text: body.text,
      public: rules.publicSources.has(source),
      split: splitOf(rules.secret, splitKey(user, content), rules.holdout),
    },
    print: { class: DOCUMENT, hash: digest([content]), sketch: sketch(content) },
  };
}

/** @param event not an erasure */
export function draftOf(event: LearndEvent, exchange: ReferredExchange | undefined, rules: Rules): Draft {
  if (event.type === 'learnd.erasure') throw new Error('an erasure becomes no row');
  return event.type === 'learnd.document' ? documentDraft(event, rules) : feedbackDraft(event, exchange, rules);
}

/** The row to insert, once the event has its id and the verdict about repetition is known. */
export function rowOf(draft: Draft, event: number, excluded: string | undefined): NewFeedback | NewDocument {
  return {
    ...draft.row,
    event,
    unit: unitOf(draft.user, event),
    content_hash: Buffer.from(draft.print.hash, 'hex'),
    sketch: sketchBytes(draft.print.sketch),
    excluded,
  };
}
