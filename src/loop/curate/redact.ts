import { isIP } from 'node:net';

/**
 * Personal data that has a form: e-mail and IP addresses, IBANs, card and phone numbers become `[email]`, `[ip]`, `[iban]`,
 * `[card]`, `[phone]` before anything is stored. Names and postal addresses have no form and are not found: the guarantee
 * about people is differential privacy, this only keeps the plainest identifiers out of the store. Every quantifier is
 * bounded, so the time is linear in the text.
 */

export type PiiKind = 'email' | 'ip' | 'iban' | 'card' | 'phone';

export interface Redacted {
  readonly text: string;
  readonly found: Readonly<Partial<Record<PiiKind, number>>>;
}

const EMAIL =
  /[\p{L}\p{N}._%+'-]{1,64}(?:@| ?[([{]at[)\]}] ?)(?:[\p{L}\p{N}-]{1,63}(?:\.| ?[([{]dot[)\]}] ?)){1,8}\p{L}{2,24}/giu;
const IPV4 = /(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)/g;
const IPV6 = /(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:(?:\.\d{1,3}){3})?(?![\w:])/gi;
const IBAN = /(?<![a-z0-9])[a-z]{2}\d{2}(?:[ -]?[a-z0-9]){11,30}/gi;
const CARD = /(?<![\d+])\d(?:[ -]?\d){12,18}(?!\d)/g;
const CARD_GROUPS = /^\d{4}([ -])\d{4}\1\d{4}\1\d{4}$|^\d{4}([ -])\d{6}\2\d{5}$/;
const PHONE: readonly RegExp[] = [
  // +49 (0)30 1234567, 0044 20 7946 0958
  /(?<![\w+])(?:\+|00(?=[ ()\d]))[ ]?[1-9](?:[ ()./-]{0,3}\d){7,14}(?!\d)/g,
  // 030 / 1234567, 0171-2345678, 020 7946 0958, (030) 1234567; a decimal fraction has its point behind the first zero
  /(?<![\w.,+:/-])\(?0\d(?:[ ()/-]{0,3}\d|\.\d(?=\d)){7,12}(?![\d.,]\d|\d)/g,
  // (555) 123-4567, 555.123.4567, 1-800-555-0199
  /(?<![\w.,+-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\d)/g,
];
/** Digits alone are a phone number only when the text says so. */
const CALLED =
  /(\b(?:phone|tel|telephone|mobile|cell|call|text|sms|whatsapp|fax|telefon|handy|mobil)\b[^\d\n]{0,24}?)(\d{7,13})(?!\d)/gi;

/** Lengths by country, from the IBAN registry (SWIFT, ISO 13616). */
const IBAN_LENGTH: Readonly<Record<string, number>> = Object.fromEntries(
  [
    'AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 ES24 FI18',
    'FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IS26 IT27 JO30 KW30 KZ20 LB28 LI21 LT20',
    'LU20 LV21 MC27 MD24 ME22 MK19 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SE24 SI19',
    'SK24 SM27 TN24 TR26 UA29 VA22 XK20',
  ]
    .flatMap(line => line.split(' '))
    .map(entry => [entry.slice(0, 2), Number(entry.slice(2))]),
);

/** `a::b` is a name in C++; what names a machine has more groups. */
const isIPv6 = (match: string): boolean => isIP(match) === 6 && (match.match(/[0-9a-f]+/gi)?.length ?? 0) > 2;

/** ISO 7812 check digit. */
function luhn(digits: string): boolean {
  let sum = 0;
  for (let i = 0; i < digits.length; i++) {
    const digit = Number(digits[digits.length - 1 - i]);
    const doubled = i % 2 === 1 ? digit * 2 : digit;
    sum += doubled > 9 ? doubled - 9 : doubled;
  }
  return sum % 10 === 0;
}

/** How many characters of `match` are an IBAN of its country; 0: none. A mistyped check digit is as personal as a right one. */
function ibanPrefix(match: string): number {
  const wanted = IBAN_LENGTH[match.slice(0, 2).toUpperCase()];
  if (wanted === undefined) return 0;
  let seen = 0;
  for (let i = 0; i < match.length; i++) {
    if (match[i] !== ' ' && match[i] !== '-') seen++;
    if (seen < wanted) continue;
    const next = match[i + 1];
    return next !== undefined && /[a-z0-9]/i.test(next) ? 0 : i + 1;
  }
  return 0;
}

const isCard = (match: string): boolean => {
  const digits = match.replace(/\D/g, '');
  return CARD_GROUPS.test(match) || (/^[2-6]/.test(digits) && luhn(digits));
};

export function redact(text: string): Redacted {
  const found: Partial<Record<PiiKind, number>> = {};
  const mark = (kind: PiiKind): string => {
    found[kind] = (found[kind] ?? 0) + 1;
    return `[${kind}]`;
  };
  let out = text;
  if (/@|[([{]at[)\]}]/i.test(out)) out = out.replace(EMAIL, () => mark('email'));
  if (out.includes(':')) out = out.replace(IPV6, match => (isIPv6(match) ? mark('ip') : match));
  if (!/\d/.test(out)) return { text: out, found };
  out = out.replace(IPV4, match => (isIP(match) === 4 ? mark('ip') : match));
  out = out.replace(IBAN, match => {
    const length = ibanPrefix(match);
    return length === 0 ? match : mark('iban') + match.slice(length);
  });
  out = out.replace(CARD, match => (isCard(match) ? mark('card') : match));
  for (const pattern of PHONE) out = out.replace(pattern, () => mark('phone'));
  out = out.replace(CALLED, (_, before: string) => before + mark('phone'));
  return { text: out, found };
}
