/** Run on a file system of 1 MiB (argv[2]): stores a small file, one that does not fit, and another small one; prints what happened. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { LearndError } from '../../src/base/errors.ts';
import { openArtifacts } from '../../src/store/artifacts.ts';

const root = process.argv[2]!;
const artifacts = await openArtifacts(root);
await artifacts.putBytes(Buffer.alloc(100_000, 1), 'bin');
let thrown: unknown;
try {
  await artifacts.putBytes(Buffer.alloc(4_000_000, 2), 'bin');
} catch (error) {
  thrown = error;
}
const error = thrown as LearndError;
const temporary = readdirSync(join(root, 'tmp'));
const blobs = readdirSync(join(root, 'blobs')).length;
const after = await artifacts.putBytes(Buffer.alloc(100_000, 3), 'bin');
process.stdout.write(
  JSON.stringify({
    learnd: thrown instanceof LearndError,
    code: error.code,
    message: error.message,
    retriable: error.retriable,
    temporary,
    blobs,
    after: after.bytes === 100_000,
  }),
);
