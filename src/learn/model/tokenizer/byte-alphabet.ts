/**
 * GPT-2's byte alphabet: each byte as one printable character, so that a vocabulary is made of strings. Printable Latin-1
 * bytes stand for themselves, the other 68 are moved to U+0100 and up, in order.
 */
export const BYTE_TO_CHAR: readonly string[] = (() => {
  const chars: string[] = [];
  let moved = 0;
  for (let b = 0; b < 256; b++) {
    const itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
    chars.push(String.fromCharCode(itself ? b : 256 + moved++));
  }
  return chars;
})();

const CHAR_TO_BYTE = new Map(BYTE_TO_CHAR.map((char, byte) => [char, byte]));
const encoder = new TextEncoder();

/** The bytes a token stands for; a token with a character outside the alphabet stands for its own UTF-8. */
export function bytesOfToken(token: string): Uint8Array {
  const out = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = CHAR_TO_BYTE.get(token[i]!);
    if (byte === undefined) return encoder.encode(token);
    out[i] = byte;
  }
  return out;
}

/** Text as the alphabet's characters, one a UTF-8 byte (lone surrogates become U+FFFD). */
export function alphabetOf(text: string): string {
  let out = '';
  for (const byte of encoder.encode(text)) out += BYTE_TO_CHAR[byte];
  return out;
}
