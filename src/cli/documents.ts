import { invalid } from '../base/errors.ts';
import { utf8Text } from './text-lines.ts';

export const DOCUMENT_KINDS = ['line', 'paragraph', 'file'] as const;
export type DocumentKind = (typeof DOCUMENT_KINDS)[number];

/** The documents of text files: each line that is not empty, what blank lines separate, or each file as a whole. */
export function readDocuments(files: readonly string[], kind: DocumentKind): string[] {
  const documents = files.flatMap(file => {
    const text = utf8Text(file).replaceAll('\r\n', '\n');
    const parts = kind === 'line' ? text.split('\n') : kind === 'paragraph' ? text.split(/\n[ \t]*\n/) : [text];
    return parts.map(part => part.trim()).filter(part => part !== '');
  });
  if (documents.length === 0) throw invalid('file', `${files.join(', ')}: there is no text`);
  return documents;
}
