import { notify, type Queryable } from './database.ts';

/** Every policy text that was ever accepted, oldest id first; the newest is the one in force. */
export interface PolicyRow {
  readonly id: number;
  readonly sha256: string;
  /** Where it came from: `file`, `http`, `default`. */
  readonly source: PolicySource;
  readonly text: string;
  readonly created_at: Date;
}

export type PolicySource = 'file' | 'http' | 'default';

export async function newestPolicy(db: Queryable): Promise<PolicyRow | undefined> {
  const { rows } = await db.query<PolicyRow>('select * from policies order by id desc limit 1');
  return rows[0];
}

/** Newest first. */
export async function listPolicies(db: Queryable, limit = 100): Promise<PolicyRow[]> {
  const { rows } = await db.query<PolicyRow>('select * from policies order by id desc limit $1', [limit]);
  return rows;
}

export async function getPolicy(db: Queryable, id: number): Promise<PolicyRow | undefined> {
  const { rows } = await db.query<PolicyRow>('select * from policies where id = $1', [id]);
  return rows[0];
}

/** Stores an accepted text, unless it is the one in force already. @returns the row in force. */
export async function storePolicy(
  db: Queryable,
  policy: { text: string; sha256: string; source: PolicySource },
): Promise<PolicyRow> {
  // Two writers at once would both find the other's text missing.
  await db.query(`select pg_advisory_xact_lock(hashtext('learnd.policies'))`);
  const newest = await newestPolicy(db);
  if (newest?.sha256 === policy.sha256) return newest;
  const { rows } = await db.query<PolicyRow>(
    'insert into policies (sha256, source, text) values ($1, $2, $3) returning *',
    [policy.sha256, policy.source, policy.text],
  );
  await notify(db, 'policy');
  return rows[0]!;
}

/**
 * Whether a text is news: it is neither the last one read from the file nor one accepted since (over HTTP, and perhaps written
 * to the file by that). A file edited while the daemon was down is news; a file older than the last change over HTTP is not.
 */
export async function isNews(db: Queryable, sha256: string): Promise<boolean> {
  const { rows } = await db.query<{ known: boolean }>(
    `select exists (select 1 from policies where sha256 = $1
       and id >= coalesce((select max(id) from policies where source = 'file'), 0)) as known`,
    [sha256],
  );
  return !rows[0]!.known;
}
