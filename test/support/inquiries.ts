/**
 * Generated customer inquiries: every intent has its own openings, verbs and objects, so that a small model can tell them apart
 * and a reader can see why. Deterministic for a seed. Written for the tests; no data set is behind it.
 */

export interface Inquiry {
  readonly text: string;
  readonly label: string;
  readonly user: string;
}

const PHRASES: Record<string, readonly string[]> = {
  balance: [
    'how much money is on my account{when}',
    'what is my balance{when}',
    'show me the balance of my {account} account',
    'is there enough left on the {account} account',
    'tell me how much i have{when}',
    'my {account} account shows a strange total',
  ],
  transfer: [
    'i want to send {amount} to {person}',
    'please transfer {amount} to my {person}',
    'can i move {amount} between accounts{when}',
    'how long does a transfer to {country} take',
    'my transfer to {person} has not arrived{when}',
    'wire {amount} to an account in {country}',
  ],
  card_lost: [
    'i lost my card{when}',
    'my card was stolen in {country}',
    'block my card please, i cannot find it',
    'someone took my purse with the card{when}',
    'the card is gone, what do i do',
    'my {person} lost the card you sent',
  ],
  exchange_rate: [
    'what rate do you use for {currency}',
    'how many {currency} do i get for {amount}',
    'is the {currency} rate better{when}',
    'do you charge for changing into {currency}',
    'which exchange rate applies in {country}',
    'the {currency} rate looks wrong{when}',
  ],
  refund: [
    'the shop owes me a refund of {amount}',
    'when will my refund show up',
    'i sent the goods back and want my money returned',
    'the seller refuses to refund {amount}',
    'can you reverse the purchase from the shop{when}',
    'a merchant in {country} promised a refund',
  ],
  pin_reset: [
    'i forgot my pin code',
    'how do i choose a new pin{when}',
    'the machine says the pin is wrong',
    'my pin is blocked after three tries',
    'please unlock the pin of my {account} card',
    'can i change the pin while in {country}',
  ],
  mortgage: [
    'i would like to buy a house and need a mortgage',
    'what interest do you offer on a home loan',
    'can i pay my mortgage off early{when}',
    'how large a mortgage can my {person} and i get',
    'the monthly mortgage payment went up{when}',
    'do you finance a flat in {country}',
  ],
  app_login: [
    'the app does not let me log in{when}',
    'i get an error when signing in on my phone',
    'my password is not accepted by the app',
    'the login screen is frozen',
    'how do i register a new phone for the app',
    'fingerprint sign in stopped working{when}',
  ],
};

export const OLD_INTENTS = ['balance', 'transfer', 'card_lost', 'exchange_rate'] as const;
export const NEW_INTENTS = ['refund', 'pin_reset', 'mortgage', 'app_login'] as const;
export const INTENTS: readonly string[] = [...OLD_INTENTS, ...NEW_INTENTS];

const SLOTS: Record<string, readonly string[]> = {
  when: ['', '', '', ' today', ' this morning', ' since monday', ' right now'],
  account: ['savings', 'current', 'joint', 'business'],
  amount: ['20 euros', '150 pounds', '75 dollars', '1200 euros', '9 pounds'],
  person: ['brother', 'landlord', 'mother', 'wife', 'neighbour'],
  country: ['france', 'poland', 'spain', 'japan', 'norway'],
  currency: ['yen', 'dollars', 'zloty', 'francs', 'crowns'],
};
const GREETING = ['', '', '', 'hello, ', 'hi, ', 'good evening, ', 'excuse me, '];
const CLOSING = ['', '', '', ' thanks', ' please help', ' it is urgent'];

/** A small seeded generator (mulberry32): test data, nothing private rests on it. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function inquiries(options: {
  intents: readonly string[];
  users: number;
  perUser: number;
  seed: number;
  prefix?: string;
}): Inquiry[] {
  const random = seeded(options.seed);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const made: Inquiry[] = [];
  for (let i = 0; i < options.perUser; i++) {
    for (let u = 0; u < options.users; u++) {
      const label = pick(options.intents);
      const body = pick(PHRASES[label]!).replace(/\{(\w+)\}/g, (_, slot: string) => pick(SLOTS[slot]!));
      made.push({ text: `${pick(GREETING)}${body}${pick(CLOSING)}`, label, user: `${options.prefix ?? 'user'}-${u}` });
    }
  }
  return made;
}

export const labelEvents = (items: readonly Inquiry[], options: { source: string; task?: string }): unknown[] =>
  items.map((item, i) => ({
    specversion: '1.0',
    id: `${options.source}-${i}`,
    source: options.source,
    type: 'learnd.feedback.label',
    data: { task: options.task ?? 'intent', text: item.text, label: item.label, user: item.user },
  }));
