import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { line } from './report/svg.ts';

/** `loss.json` and `loss.svg`: nats a scored token, a number a step. */
export async function writeLossCurve(
  folder: string,
  losses: readonly (number | undefined)[],
  facts: Readonly<Record<string, unknown>>,
): Promise<void> {
  const loss = losses.map(value => value ?? null);
  await writeAtomically(`${folder}/loss.json`, textChunk(`${JSON.stringify({ ...facts, loss })}\n`));
  if (!loss.some(value => value !== null)) return;
  const plot = line(loss, { x: 'step', y: 'loss, nats a token' });
  await writeAtomically(`${folder}/loss.svg`, textChunk(`${standalone(plot)}\n`));
}

/** The page's colours, for a picture that stands by itself. */
const standalone = (svg: string): string =>
  svg
    .replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ')
    .replace(
      '>',
      '><style>svg{background:#fff;font:12px sans-serif}text{fill:#333}.grid{stroke:#ddd}path{fill:none;stroke:#1666b0;stroke-width:1.5}</style>',
    );
