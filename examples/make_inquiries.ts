import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Writes examples/inquiries.csv: 320 short customer inquiries in 8 intents from 64 users, five each. The sentences were written for
 * this project; a hash decides who says what, so the file is the same wherever it is made. `node --import tsx examples/make_inquiries.ts`
 */

const OPENINGS = [
  '',
  '',
  '',
  'Hi, ',
  'Hello there, ',
  'Quick question: ',
  'Sorry to bother you, but ',
  'Good morning, ',
];
const CLOSINGS = ['', '', '', ' Thanks!', ' Please help.', ' It is rather urgent.', ' I am on the road right now.'];

const SLOTS: Record<string, readonly string[]> = {
  amount: [
    '20 euros',
    '75 euros',
    '120 pounds',
    '400 euros',
    '1,500 euros',
    'fifty dollars',
    'a few hundred',
    'my whole salary',
  ],
  person: [
    'my landlord',
    'my sister',
    'a friend',
    'the plumber',
    'my daughter',
    'a colleague',
    'the dentist',
    'my football club',
  ],
  place: ['Lisbon', 'Oslo', 'the airport', 'a taxi', 'the supermarket', 'Prague', 'the gym', 'a hotel in Crete'],
  when: [
    'today',
    'since Monday',
    'this morning',
    'for a week now',
    'over the weekend',
    'since my last visit',
    'all day',
    'since the first',
  ],
  currency: ['yen', 'dollars', 'pounds', 'crowns', 'francs', 'zloty', 'lira', 'forints'],
  shop: [
    'the shoe shop',
    'a web shop',
    'the airline',
    'my phone company',
    'a bookshop',
    'the hotel',
    'a concert agency',
    'the furniture store',
  ],
};

const INTENTS: Record<string, readonly string[]> = {
  balance: [
    'how much do I have left after paying {person}?',
    'the total shown {when} does not match my own sums.',
    'can you tell me what is on my savings account?',
    'I cannot see the current balance {when}, the page stays empty.',
    'is there enough in my account for a payment of {amount}?',
    'why is the available amount lower than the booked one?',
    'what did my account stand at before I paid {shop}?',
    'my balance dropped by {amount} and I do not know why.',
  ],
  transfer: [
    'I want to send {amount} to {person}, where do I do that?',
    'the money for {person} has been under way {when}.',
    'can I set up a standing order of {amount} every month?',
    'I typed the wrong account number when paying {person}.',
    'what is the most I may transfer in one day?',
    'does a payment to an account abroad cost extra?',
    'please stop the transfer of {amount} I made {when}.',
    'how do I move {amount} from savings to my current account?',
  ],
  card_lost: [
    'I must have left my card in {place}, please block it.',
    'somebody stole my wallet in {place} with the card in it.',
    'my card is gone {when}, what should I do first?',
    'I found the card again that I reported missing, can it be unblocked?',
    'are payments covered that a thief made in {place}?',
    'the cash machine in {place} kept my card.',
    'I need to freeze my card, I cannot find it {when}.',
    'my bag was snatched, so the card is in strange hands now.',
  ],
  card_arrival: [
    'my new card was meant to be here {when}.',
    'when does the card I ordered arrive?',
    'the post brought the PIN but no card so far.',
    'can you deliver the replacement card to {place} instead?',
    'how do I track the parcel with my debit card?',
    'I have moved, did my card go to the old address?',
    'how many working days until a first card is in the letterbox?',
    'still waiting for the plastic, nothing {when}.',
  ],
  exchange_rate: [
    'what do I get for {amount} in {currency}?',
    'which rate applied when I paid in {currency} in {place}?',
    'is it better to change into {currency} before the trip?',
    'do you take a margin on the rate for {currency}?',
    'the rate for {currency} on my statement differs from the news.',
    'at what time of day is the {currency} rate fixed?',
    'do weekends change what I pay for {currency}?',
    'how is a purchase in {currency} converted?',
  ],
  refund: [
    '{shop} promised me {amount} back, but nothing came.',
    'I returned the goods to {shop}, when is my money back?',
    'how do I dispute a charge from {shop}?',
    '{shop} charged me twice and ignores my letters.',
    'the event was called off, can you get {amount} back from {shop}?',
    'I see a reversal from {shop} but the total is unchanged.',
    'may I cancel a card payment I made {when}?',
    'I never ordered anything from {shop}, please undo it.',
  ],
  top_up: [
    'how can I load {amount} onto my prepaid account?',
    'my top-up of {amount} has not been credited {when}.',
    'can {person} pay money into my account in cash?',
    'adding money with another bank card fails {when}.',
    'is there a fee for topping up by bank card?',
    'what is the smallest amount I can add?',
    'I topped up by mistake twice, {amount} each time.',
    'can the account be filled automatically when it runs low?',
  ],
  close_account: [
    'I want to close my account at the end of the month.',
    'how do I end the contract, and what happens to the {amount} in it?',
    'please delete my profile, I am moving to another bank.',
    'do I have to give notice before closing?',
    'the app will not let me cancel the account {when}.',
    'can a joint account be closed by one of us alone?',
    'I closed the account but still get letters {when}.',
    'shut down the second account I opened for {person}, please.',
  ],
};

/** A number below `n` that depends on the place only. */
const choose = (place: string, n: number): number => createHash('sha256').update(place).digest().readUInt32BE(0) % n;
const pick = <T>(place: string, from: readonly T[]): T => from[choose(place, from.length)]!;

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

export function inquiries(): { text: string; label: string; user: string }[] {
  const labels = Object.keys(INTENTS);
  return Array.from({ length: 320 }, (_, i) => {
    const label = labels[(i * 3 + Math.floor(i / 8)) % labels.length]!;
    const sentence = INTENTS[label]![(Math.floor(i / 8) + choose(`start ${label}`, 8)) % 8]!;
    const filled = sentence.replace(/\{(\w+)\}/g, (_whole, slot: string) => pick(`${slot} ${i}`, SLOTS[slot]!));
    const text = capital(`${pick(`opening ${i}`, OPENINGS)}${filled}${pick(`closing ${i}`, CLOSINGS)}`);
    return { text, label, user: `customer-${String((i * 27 + Math.floor(i / 64) * 11) % 64).padStart(2, '0')}` };
  });
}

if (process.argv[1] === import.meta.filename) {
  const cell = (text: string): string => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = inquiries().map(({ text, label, user }) => [text, label, user].map(cell).join(','));
  writeFileSync(join(import.meta.dirname, 'inquiries.csv'), `text,label,user\n${lines.join('\n')}\n`);
}
