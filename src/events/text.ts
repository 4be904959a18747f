import { z } from 'zod';

/**
 * Strings that PostgreSQL can store and a tokenizer can read: bounded, no NUL or other control characters, no lone surrogates.
 * No message repeats any part of the value: reasons go to logs, dead letters and answers, private text does not.
 */

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const CONTROL = /[\u0000-\u0008\u000e-\u001f\u007f]/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const ANY_CONTROL = /[\u0000-\u001f\u007f]/;
const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

const codePoint = (text: string, at: RegExp): string => {
  const found = at.exec(text)?.[0].charCodeAt(0) ?? 0;
  return `U+${found.toString(16).toUpperCase().padStart(4, '0')}`;
};

const mustBeString = {
  error: (issue: { input: unknown }) => (issue.input === undefined ? 'is required' : 'must be a string'),
};

/** Text of at most `bytes` bytes of UTF-8; line breaks, tabs and form feeds are text. */
export const text = (bytes: number): z.ZodString =>
  z
    .string(mustBeString)
    .check(ctx => {
      const value = ctx.value;
      const issue = (message: string) => ctx.issues.push({ code: 'custom', message, input: value, continue: false });
      if (value.trim() === '') return void issue('must not be empty');
      const size =
        value.length > bytes ? Buffer.byteLength(value) : value.length * 3 > bytes ? Buffer.byteLength(value) : 0;
      if (size > bytes) return void issue(`is ${size} bytes, the limit is ${bytes}`);
      if (CONTROL.test(value)) return void issue(`holds the control character ${codePoint(value, CONTROL)}`);
      if (LONE_SURROGATE.test(value)) issue('holds half of a surrogate pair');
    })
    .meta({ minLength: 1, maxLength: bytes });

/** A name or identifier of at most `chars` UTF-16 code units on one line. */
export const identifier = (chars: number): z.ZodString =>
  z
    .string(mustBeString)
    .check(ctx => {
      const value = ctx.value;
      const issue = (message: string) => ctx.issues.push({ code: 'custom', message, input: value, continue: false });
      if (value.trim() === '') return void issue('must not be empty');
      if (value.length > chars) return void issue(`is ${value.length} characters, the limit is ${chars}`);
      if (ANY_CONTROL.test(value)) return void issue(`holds the control character ${codePoint(value, ANY_CONTROL)}`);
      if (LONE_SURROGATE.test(value)) issue('holds half of a surrogate pair');
    })
    .meta({ minLength: 1, maxLength: chars });

const DATE = /^\d{4}-\d{2}-\d{2}$/;
const DATE_TIME = /^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?([Zz]|[+-]\d{2}:?\d{2})$/;

/** RFC 3339 date-time; with `dateToo`, a plain date as well (read as midnight UTC). */
export const timestamp = (dateToo = false): z.ZodString =>
  z
    .string(mustBeString)
    .check(ctx => {
      const value = ctx.value;
      const shaped = DATE_TIME.test(value) || (dateToo && DATE.test(value));
      if (!shaped || Number.isNaN(Date.parse(value)))
        ctx.issues.push({
          code: 'custom',
          message: `must be an RFC 3339 date-time${dateToo ? ' or a date' : ''}, like 2026-01-31T12:00:00Z`,
          input: value,
        });
    })
    .meta({ format: dateToo ? undefined : 'date-time' });
