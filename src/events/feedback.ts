import { z } from 'zod';
import { context, type Limits } from './context.ts';
import { identifier, text } from './text.ts';

/** `learnd.feedback.*`: what people say about answers, and what they would have said. */

const responseId = () => identifier(256).describe('The answer it is about: id of a response or chat completion');

const oneOf = (first: string, second: string) => `needs ${first} or ${second}`;

export const rating = (limits: Limits) =>
  z.strictObject({
    response_id: responseId(),
    value: z.union([z.literal(-1), z.literal(1)], {
      error: issue => (issue.input === undefined ? 'is required' : 'must be -1 or 1'),
    }),
    comment: text(limits.text_bytes).optional(),
    ...context(),
  });

export const label = (limits: Limits) =>
  z
    .strictObject({
      task: identifier(limits.label_chars).describe(
        'A task of the settings; another one is stored, but not trained on',
      ),
      text: text(limits.text_bytes).optional(),
      response_id: responseId().optional(),
      label: identifier(limits.label_chars),
      ...context(),
    })
    .refine(data => data.text !== undefined || data.response_id !== undefined, {
      path: ['text'],
      error: oneOf('text', 'response_id'),
    });

export const correction = (limits: Limits) =>
  z
    .strictObject({
      response_id: responseId().optional(),
      prompt: text(limits.text_bytes).optional(),
      ideal: text(limits.text_bytes).describe('The answer there should have been'),
      ...context(),
    })
    .refine(data => data.prompt !== undefined || data.response_id !== undefined, {
      path: ['prompt'],
      error: oneOf('prompt', 'response_id'),
    });

export const preference = (limits: Limits) =>
  z.strictObject({
    prompt: text(limits.text_bytes),
    chosen: text(limits.text_bytes),
    rejected: text(limits.text_bytes),
    ...context(),
  });

export type Rating = z.infer<ReturnType<typeof rating>>;
export type Label = z.infer<ReturnType<typeof label>>;
export type Correction = z.infer<ReturnType<typeof correction>>;
export type Preference = z.infer<ReturnType<typeof preference>>;
