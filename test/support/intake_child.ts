import { createLog } from '../../src/base/log.ts';
import { loadSettings } from '../../src/base/settings.ts';
import { startKafkaIntake } from '../../src/loop/ingest/intake.ts';
import { connect } from '../../src/store/database.ts';

/** A process that consumes until it is killed: `intake_child.ts DATABASE_URL BROKERS SECRET`. */
const [database, brokers, secret] = process.argv.slice(2) as [string, string, string];
const log = createLog({ level: 'warn', where: `child ${process.pid}` });
const settings = loadSettings({ env: {}, cwd: '/nonexistent', overrides: { 'kafka.brokers': brokers.split(',') } });
await startKafkaIntake({ db: connect(database, { log }), settings, secret: Buffer.from(secret), log });
process.send?.('started');
