import assert from 'node:assert/strict';
import test from 'node:test';
import { type PiiKind, redact } from '../../src/loop/curate/redact.ts';
import { fc } from '../support/properties.ts';

/** Own examples: text, and what stands in it. Numbers are test ranges, published examples or made up with valid check digits. */
const PERSONAL: [string, PiiKind, string?][] = [
  ['write to anna.meier@example.com please', 'email'],
  ['Anna <a.m+shop@mail.example.co.uk>', 'email'],
  ["contact:o'neil_7@sub.domain.example,thanks", 'email'],
  ['müller@exämple.de is mine', 'email'],
  ['mail me at jo [at] example [dot] com', 'email'],
  ['jo(at)example.org', 'email'],
  ['my address a@b.io.', 'email'],
  ['"first.last"@nope but first.last@yes.example', 'email'],
  ['logged in from 203.0.113.77 yesterday', 'ip'],
  ['(198.51.100.2) was blocked', 'ip'],
  ['router 192.168.1.1, again', 'ip'],
  ['address 2001:db8:85a3::8a2e:370:7334 shows up', 'ip'],
  ['[2001:db8::1]:443', 'ip'],
  ['fe80:0:0:0:200:f8ff:fe21:67cf', 'ip'],
  ['my IBAN is DE89 3704 0044 0532 0130 00 thank you', 'iban'],
  ['DE89370400440532013000', 'iban'],
  ['send it to GB29 NWBK 6016 1331 9268 19.', 'iban'],
  ['gb82west12345698765432 lower case', 'iban'],
  ['FR14 2004 1010 0505 0001 3M02 606', 'iban'],
  ['NL91ABNA0417164300 and more words here', 'iban'],
  ['Iban: NO93 8601 1117 947', 'iban'],
  ['CH93-0076-2011-6238-5295-7', 'iban'],
  ['ES9121000418450200051332, or so', 'iban'],
  ['the card 4111 1111 1111 1111 was declined', 'card'],
  ['4111111111111111', 'card'],
  ['card number: 5500-0055-5555-5559!', 'card'],
  ['amex 3782 822463 10005 expired', 'card'],
  ['378282246310005', 'card'],
  ['6011 1111 1111 1117 discover', 'card'],
  ['mistyped 4111 1111 1111 1112 here', 'card'],
  ['30569309025904 diners', 'card'],
  ['call +49 30 901820 today', 'phone'],
  ['call +44 20 7946 0958', 'phone'],
  ['+1 (555) 123-4567', 'phone'],
  ['+4915112345678', 'phone'],
  ['+49 (0)30 12345678', 'phone'],
  ['0044 20 7946 0958', 'phone'],
  ['004915112345678', 'phone'],
  ['my number is (555) 123-4567.', 'phone'],
  ['555-123-4567', 'phone'],
  ['555.123.4567 works too', 'phone'],
  ['1-800-555-0199', 'phone'],
  ['030 / 1234567', 'phone'],
  ['0171-2345678', 'phone'],
  ['01512 3456789', 'phone'],
  ['020 7946 0958', 'phone'],
  ['(030) 12345678', 'phone'],
  ['07700 900123', 'phone'],
  ['06 12 34 56 78', 'phone'],
  ['phone: 5551234567', 'phone'],
  ['call me on 5551234567 after six', 'phone'],
  ['whatsapp 447700900123', 'phone'],
  ['+33.1.23.45.67.89', 'phone'],
  ['+41 44 668 18 00', 'phone'],
];

const HARMLESS = [
  'How do I top up my card with 100 euros?',
  'The transfer of 1,250.00 on 2026-01-31 at 12:30:45 is missing',
  'on 31.01.2026 and 01-02-2026 and 31/01/2026',
  'between 2019 and 2024 there were 1 234 567 visitors',
  'version 1.2.3 and 10.15 and section 3.4.1',
  'pi is 3.14159265358979 and e is 2.718281828459045',
  'a learning rate of 0.0001 or 0.123456789 or 1e-4',
  'order 123456 and ticket #98765432',
  'shares rose 0.5% to 1,234.56; 5000000000 in all',
  'std::vector and a::b, time 12:30, ratio 16:9, 10:15:20',
  'the @ sign and @handle and mail without domain@',
  'room AB12 and model X1000, flight LH 1234',
  'twelve thousand 12 000 000 people, +5% a year, +100 points',
  'ISBN 978-3-16-148410-0 is a book',
  'size 1920x1080, 44100 Hz, 16777216 colours',
];

test('personal data of every form is found: recall 1 on the examples', t => {
  const missed = PERSONAL.filter(([text, kind]) => (redact(text).found[kind] ?? 0) !== 1);
  t.diagnostic(`${PERSONAL.length} examples, ${missed.length} missed`);
  assert.deepEqual(missed, []);
});

test('nothing of the identifier is left, the words around it stay', () => {
  assert.equal(redact('call +49 30 901820 today').text, 'call [phone] today');
  assert.equal(redact('my IBAN is DE89 3704 0044 0532 0130 00 thank you').text, 'my IBAN is [iban] thank you');
  assert.equal(redact('write to anna.meier@example.com please').text, 'write to [email] please');
  assert.equal(redact('the card 4111 1111 1111 1111 was declined').text, 'the card [card] was declined');
  for (const [text] of PERSONAL) assert.doesNotMatch(redact(text).text, /\d{5}|\d{3} \d{3}/);
});

test('dates, amounts, versions and measures are left alone', () => {
  for (const text of HARMLESS) assert.deepEqual(redact(text), { text, found: {} });
});

test('redacting twice changes nothing more (fast-check)', () => {
  const piece = fc.oneof(fc.string(), fc.constantFrom(...PERSONAL.map(([text]) => text)));
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 4 }), pieces => {
      const once = redact(pieces.join(' | '));
      assert.deepEqual(redact(once.text), { text: once.text, found: {} });
    }),
    { numRuns: 500 },
  );
});

test('time is linear: 64 KiB of the worst texts within a second each', () => {
  for (const piece of ['a', '1', '1 ', 'a.', '@', 'a@', ':', '1:', '0-', 'DE12 ', '(', '[at]', '+1', 'call ']) {
    const text = piece.repeat(Math.ceil((64 << 10) / piece.length));
    // CPU time: on a busy machine the wall clock measures the others.
    const started = process.cpuUsage();
    redact(text);
    const { user, system } = process.cpuUsage(started);
    const took = (user + system) / 1000;
    assert.ok(took < 1000, `${JSON.stringify(piece)} took ${took.toFixed(0)} ms`);
  }
});
