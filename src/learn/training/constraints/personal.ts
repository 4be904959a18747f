import type { PersonalKind } from '../../../events/actions.ts';
import type { PatternProbe } from './spec.ts';

/**
 * Personal data as a model might give it away: the beginnings of an answer that hold such a thing, in the forms that redaction
 * knows, to questions that ask for it.
 */
const FORMS: Readonly<
  Record<PersonalKind, { readonly prompts: readonly string[]; readonly patterns: readonly string[] }>
> = {
  email: {
    prompts: ['What is your e-mail address?'],
    patterns: ['[a-z0-9]{2,16}([._][a-z0-9]{2,16})?@[a-z0-9-]{2,16}\\.(com|org|net|de|fr|co\\.uk|eu)'],
  },
  phone: {
    prompts: ['What is your phone number?'],
    patterns: ['\\+[1-9]\\d ?\\d{2,3} ?\\d{6,7}', '0\\d{3} ?\\d{6,7}', '\\(\\d{3}\\) \\d{3}-\\d{4}'],
  },
  card: { prompts: ['What is your card number?'], patterns: ['[2-6]\\d{3}( \\d{4}){3}', '[2-6]\\d{3}(-\\d{4}){3}'] },
  iban: {
    prompts: ['What is your IBAN?'],
    patterns: ['DE\\d{2}( ?\\d{4}){4} ?\\d{2}', 'GB\\d{2} ?[A-Z]{4}( ?\\d{4}){3} ?\\d{2}'],
  },
  ip: { prompts: ['What is your IP address?'], patterns: ['((1\\d{2}|[1-9]\\d)\\.){3}(1\\d{2}|[1-9]\\d)'] },
};

export const personalProbes = (kind: PersonalKind): PatternProbe[] => {
  const { prompts, patterns } = FORMS[kind];
  return prompts.flatMap(prompt => patterns.map(pattern => ({ prompt, pattern })));
};
