/**
 * One training step, ours against PyTorch's and Opacus': each contestant is a process of its own, steps are taken in turns.
 * `npm run bench -- step [full|lora] [1|2] [cpu]`: what and how many threads; default both, with the threads of the machine (at
 * most 2). `cpu` compares seconds of processor time instead of seconds by the clock: for a machine that has other work to do.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { alternate, type BenchOptions, median, type Row } from '../kit.ts';
import { type Peer, peerPython, startPeer } from '../peers/environment.ts';
import { SMALL, SMOLLM2, type StepSetting } from './setting.ts';

export const name = 'step';
export const title =
  'A training step: ours, private and not, against PyTorch and Opacus (full: 30.7M parameters; lora: SmolLM2-135M, rank 8, all layers); 8 x 128 tokens';

type What = StepSetting['what'];

export async function run(options: BenchOptions): Promise<readonly Row[]> {
  const whats = (['full', 'lora'] as const).filter(what => options.args.includes(what));
  const threads = Number(options.args.find(arg => /^\d+$/.test(arg)) ?? Math.min(2, availableParallelism()));
  const rows: Row[] = [];
  for (const what of whats.length > 0 ? whats : (['full', 'lora'] as const))
    rows.push(...(await compare(what, threads, options)));
  return rows;
}

async function compare(what: What, threads: number, { quick, args, log }: BenchOptions): Promise<Row[]> {
  const python = peerPython(log);
  const base = { model: what === 'full' ? SMALL : SMOLLM2, what, rank: 8, secure: false, threads };
  const folder = import.meta.dirname;
  const peer = (how: StepSetting['how'], secure = false) =>
    startPeer(python, join(folder, 'peer.py'), [JSON.stringify({ ...base, how, secure })], threads);
  const ours = (how: StepSetting['how']) =>
    startPeer(
      process.execPath,
      '--import',
      ['tsx', join(folder, 'ours.ts'), JSON.stringify({ ...base, how })],
      threads,
    );
  const contestants: Record<string, Peer> = {
    ours: ours('dp'),
    'ours plain': ours('plain'),
    PyTorch: peer('plain'),
    'Opacus ghost': peer('ghost'),
    ...(what === 'lora' ? { 'Opacus hooks': peer('hooks') } : { 'Opacus ghost, secure': peer('ghost', true) }),
  };
  try {
    const cpu: Record<string, number[]> = {};
    const seconds = await alternate(
      Object.fromEntries(
        Object.entries(contestants).map(([key, contestant]) => [
          key,
          async () => {
            const answer = await contestant.ask<{ seconds: number; cpu: number }>({ do: 'step' });
            if (cpu[key] === undefined) cpu[key] = [];
            else cpu[key].push(answer.cpu);
            return answer.seconds;
          },
        ]),
      ),
      quick ? 2 : 5,
    );
    const peak: Record<string, number> = {};
    for (const [key, contestant] of Object.entries(contestants)) {
      peak[key] = (await contestant.ask<{ peak: number }>({ do: 'memory' })).peak / 2 ** 20;
      const all = seconds[key]!.map(s => s.toFixed(2)).join(' ');
      log(
        `${what}, ${threads} threads, ${key}: ${median(seconds[key]!).toFixed(3)} s (${all}), ${median(cpu[key]!).toFixed(2)} s of CPU, ${peak[key]!.toFixed(0)} MB`,
      );
    }
    return verdict(what, `${what}, ${threads} threads`, args.includes('cpu') ? cpu : seconds, peak);
  } finally {
    await Promise.all(Object.values(contestants).map(contestant => contestant.close()));
  }
}

function verdict(what: What, prefix: string, seconds: Record<string, number[]>, peak: Record<string, number>): Row[] {
  const of = (key: string) => median(seconds[key]!);
  const label = (text: string) => `${prefix}: ${text}`;
  const pair = (a: string, b: string) => `${a} ${of(a).toFixed(2)} s, ${b} ${of(b).toFixed(2)} s`;
  const times = (text: string, peer: string, gate: Partial<Row>): Row => ({
    what: label(text),
    value: of(peer) / of('ours'),
    unit: 'x',
    detail: pair(peer, 'ours'),
    ...gate,
  });
  const own: Row = {
    what: label('private over own plain step'),
    value: of('ours') / of('ours plain'),
    unit: 'x',
    most: what === 'full' ? 1.2 : 1.05,
    detail: pair('ours', 'ours plain'),
  };
  const memory = (text: string, peer: string, gate: Partial<Row>): Row => ({
    what: label(text),
    value: peak.ours! / peak[peer]!,
    unit: 'x',
    detail: `ours ${peak.ours!.toFixed(0)} MB, ${peer} ${peak[peer]!.toFixed(0)} MB`,
    ...gate,
  });
  if (what === 'full')
    return [
      times('Opacus ghost clipping / ours', 'Opacus ghost', { least: 1.5, goal: 1.7 }),
      times('Opacus ghost clipping, secure_mode / ours', 'Opacus ghost, secure', {}),
      times('plain PyTorch / ours', 'PyTorch', { least: 0.8, goal: 0.9 }),
      own,
      memory("peak memory, ours / Opacus ghost clipping's", 'Opacus ghost', { most: 1 }),
      memory('peak memory, private / plain', 'ours plain', { most: 1.2 }),
    ];
  const faster = of('Opacus ghost') < of('Opacus hooks') ? 'Opacus ghost' : 'Opacus hooks';
  return [
    times('Opacus (its faster way) / ours', faster, { least: 1.5 }),
    times('plain PyTorch / ours', 'PyTorch', { least: 0.8 }),
    own,
    memory('peak memory, private / plain', 'ours plain', { most: 1.2 }),
  ];
}
