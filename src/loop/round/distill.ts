import { join } from 'node:path';
import { asLearndError, invalid } from '../../base/errors.ts';
import type { VersionManifest } from '../../learn/model/version.ts';
import { PUBLIC_SENTENCES } from '../../learn/training/public-text.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import type { ModelResult } from '../../learn/worker/types.ts';
import type { Queryable } from '../../store/database.ts';
import { publicTexts } from '../../store/round-rows.ts';
import { getVersion, type VersionRow } from '../../store/versions.ts';
import { failed } from './check.ts';
import { languageFiles } from './files.ts';
import type { Compute, RoundPorts } from './ports.ts';
import type { Compression } from './work.ts';

/** Newest documents of public sources that the student learns on, beside the sentences that come with learnd. */
const DOCUMENTS = 1000;
/** Past its time limit by this much a worker hangs: a training ends by itself after the step in which it passed. */
const GRACE_MS = 10 * 60_000;

/** `3` or `name@3`. @throws LearndError('invalid') for a name that is none, and for a version that is not there or was rejected */
export async function teacherVersion(db: Queryable, teacher: string): Promise<VersionRow> {
  const match = /^(?:(.+)@)?(\d+)$/.exec(teacher.trim());
  if (match === null) throw invalid('teacher', `"${teacher}" is no version: give its number, or name@number`);
  const version = await getVersion(db, Number(match[2])).catch(cause => {
    if (asLearndError(cause).code !== 'not_found') throw cause;
    throw invalid('teacher', `there is no version ${match[2]} to learn from`, { cause });
  });
  if (match[1] !== undefined && match[1] !== version.name)
    throw invalid('teacher', `version ${version.n} is ${version.name}@${version.n}, not ${teacher}`);
  if (version.state === 'rejected')
    throw invalid('teacher', `${version.name}@${version.n} was rejected: it teaches nobody`);
  return version;
}

/**
 * The student's weights after learning from the teacher on public text. What a teacher trained under differential privacy says
 * to public prompts is computed from what was released already: it is charged nothing.
 * @param before The candidate before it was pruned: the teacher where none is named.
 */
export async function distilled(
  { ports, worker, folder, call }: { ports: RoundPorts; worker: Compute; folder: string; call: CallOptions },
  { teacher, minutes }: NonNullable<Compression['distill']>,
  before: VersionManifest,
  student: VersionManifest,
): Promise<{ result: ModelResult; note: string }> {
  const row = teacher === undefined ? undefined : await getVersion(ports.db, teacher);
  const texts = [...PUBLIC_SENTENCES, ...(await publicTexts(ports.db, DOCUMENTS))];
  const { model, logitBias } = await languageFiles(ports.artifacts, student);
  const result = await worker.call(
    'distill',
    {
      teacher: await languageFiles(ports.artifacts, row?.manifest ?? before),
      student: { model, ...(logitBias && { logitBias }) },
      texts,
      maxSeconds: minutes * 60,
      threads: worker.threads,
      out: join(folder, 'distilled.gguf'),
    },
    { ...call, timeoutMs: minutes * 60_000 + GRACE_MS },
  );
  if (!(Number.isFinite(result.first) && Number.isFinite(result.last)))
    throw failed('distillation gave losses that are not finite');
  const from = row === undefined ? 'what it was before it was pruned' : `${row.name}@${row.n}`;
  const note = `distilled from ${from} in ${result.steps} steps on ${texts.length} public texts: ${result.first.toFixed(3)} to ${result.last.toFixed(3)} nats a token from the teacher; no privacy is spent (post-processing on public text)`;
  return { result, note };
}
