/**
 * A stand-in for the daemon, to be killed: starts the embedded server in argv[2] and inserts rows 1, 2, 3 …, each in its own
 * transaction; a number on standard output is a row whose commit was acknowledged. First line: "up PID URL".
 */
import { silentLog } from '../../src/base/log.ts';
import { connect } from '../../src/store/database.ts';
import { startEmbedded } from '../../src/store/embedded.ts';

const server = await startEmbedded({ data: process.argv[2]!, log: silentLog });
const db = connect(server.url, { log: silentLog });
process.stdout.write(`up ${server.pid} ${server.url}\n`);
await db.query('create table if not exists acknowledged (n int primary key)');
const { rows } = await db.query<{ n: number }>('select coalesce(max(n), 0) as n from acknowledged');
for (let n = rows[0]!.n + 1; ; n++) {
  await db.query('insert into acknowledged values ($1)', [n]);
  process.stdout.write(`${n}\n`);
}
