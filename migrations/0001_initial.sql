-- The whole state of a deployment. Numbered, forward only; applied at start under an advisory lock (src/store/migrate.ts).
-- Private text lives in feedback, documents, exchanges, dead_letters and nowhere else: erasure walks exactly these.

-- One row a fact about the deployment itself (name, base, keyed-hash secret, drift seed positions).
create table facts (
  key text primary key,
  value jsonb not null,
  updated_at timestamptz not null default now()
);

-- ---------------------------------------------------------------- events in
-- One row an event ever accepted; (source, event_id) is the idempotency key and outlives erasure of the content.
create table events (
  id bigint generated always as identity primary key,
  source text not null,
  event_id text not null,
  type text not null,
  kind text not null check (kind in ('feedback', 'document', 'erasure')),
  origin text not null check (origin in ('kafka', 'http', 'socket', 'cli')),
  occurred_at timestamptz,
  received_at timestamptz not null default now(),
  trace_parent text,
  unique (source, event_id)
);

create table feedback (
  id bigint generated always as identity primary key,
  event bigint not null unique references events(id),
  kind text not null check (kind in ('rating', 'label', 'correction', 'preference')),
  -- The privacy unit: 'u:' + user, or 'e:' + event id for an event without user.
  unit text not null,
  user_id text,
  region text,
  consent text[],
  task text,
  text text,
  label text,
  prompt text,
  ideal text,
  chosen text,
  rejected text,
  value smallint,
  comment text,
  response_id text,
  -- sha256 of what is compared for exact duplicates, and the bottom-k sketch for near ones (src/loop/curate/); within a unit only.
  content_hash bytea,
  sketch bytea,
  split text not null check (split in ('train', 'holdout')),
  -- Why the row may not be trained on ('undeclared', 'duplicate', 'near_duplicate', 'consent', 'own_output', 'unmatched', 'other_user'); null: it may.
  excluded text,
  received_at timestamptz not null default now(),
  -- Predict, then learn: what the live version said before the row could be trained on. 'sampled out' leaves predicted null.
  scored_version int,
  predicted text,
  scored_at timestamptz
);
create index feedback_unit on feedback (unit, id);
create index feedback_unmatched on feedback (response_id) where excluded = 'unmatched';
create index feedback_unscored on feedback (id) where scored_at is null and kind = 'label' and excluded is null;

create table documents (
  id bigint generated always as identity primary key,
  event bigint not null unique references events(id),
  unit text not null,
  user_id text,
  region text,
  consent text[],
  source text not null,
  -- The source is declared public in settings at the time of arrival.
  public boolean not null default false,
  title text,
  text text not null,
  license text,
  published_at timestamptz,
  content_hash bytea not null,
  sketch bytea,
  split text not null check (split in ('train', 'holdout')),
  excluded text,
  received_at timestamptz not null default now(),
  scored_version int,
  nll double precision,
  tokens int,
  bytes int,
  scored_at timestamptz
);
create index documents_unit on documents (unit, id);
create index documents_public_content on documents (content_hash) where public;
create index documents_unscored on documents (id) where scored_at is null and excluded is null;

create table kafka_offsets (
  topic text not null,
  partition int not null,
  next_offset bigint not null,
  updated_at timestamptz not null default now(),
  primary key (topic, partition)
);

create table dead_letters (
  id bigint generated always as identity primary key,
  topic text not null,
  partition int,
  "offset" bigint,
  key bytea,
  payload bytea,
  reason text not null,
  field text,
  received_at timestamptz not null default now(),
  replayed_at timestamptz,
  unique (topic, partition, "offset")
);

-- A user who asked to be forgotten: kept as a keyed hash only, so that the same user's events do not come back.
create table erased_users (
  user_hash bytea primary key,
  erased_at timestamptz not null default now(),
  receipt jsonb not null
);

-- ---------------------------------------------------------------- serving
create table exchanges (
  response_id text primary key,
  previous_response_id text,
  version text not null,
  api text not null check (api in ('responses', 'chat')),
  user_id text,
  instructions text,
  input jsonb not null,
  output text not null,
  status text not null,
  incomplete_reason text,
  usage jsonb not null,
  latency_ms real,
  first_token_ms real,
  metadata jsonb,
  created_at timestamptz not null default now()
);
create index exchanges_user on exchanges (user_id) where user_id is not null;
-- The model's own output must be recognised when it comes back as a document.
create index exchanges_output on exchanges (md5(btrim(output)));
create index exchanges_recent on exchanges (created_at);

create table keys (
  hash text primary key,
  name text not null,
  scopes text[] not null,
  created_at timestamptz not null default now(),
  revoked_at timestamptz
);

-- ---------------------------------------------------------------- registry
create table versions (
  n int primary key,
  name text not null,
  sha256 text not null,
  parent int references versions(n),
  round bigint,
  -- VersionManifest (src/learn/model/version.ts): what it is made of, files by their hash.
  manifest jsonb not null,
  epsilon double precision not null default 0,
  evaluation jsonb,
  state text not null default 'ready' check (state in ('ready', 'rejected', 'retired')),
  created_at timestamptz not null default now()
);

create table aliases (
  alias text primary key,
  version int not null references versions(n),
  fence bigint not null default 0,
  updated_at timestamptz not null default now()
);

create table alias_history (
  id bigint generated always as identity primary key,
  alias text not null,
  version int not null references versions(n),
  previous int,
  kind text not null default 'promote' check (kind in ('promote', 'rollback')),
  reason text not null,
  at timestamptz not null default now()
);

-- ---------------------------------------------------------------- monitor
create table monitor_state (
  key text primary key,
  state jsonb not null,
  updated_at timestamptz not null default now()
);

create table alarms (
  id bigint generated always as identity primary key,
  signal text not null,
  version int not null,
  detector text not null,
  value double precision,
  reference double precision,
  raised_at timestamptz not null default now(),
  cleared_at timestamptz,
  cleared_why text
);
create unique index alarms_one_open on alarms (signal) where cleared_at is null;

-- ---------------------------------------------------------------- policy
create table policies (
  id bigint generated always as identity primary key,
  sha256 text not null,
  source text not null,
  text text not null,
  created_at timestamptz not null default now()
);

create table decisions (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  policy bigint references policies(id),
  -- {name: value or null}: every signal at that moment.
  signals jsonb not null,
  -- [{rule, fired, blocked: [reasons], unknown: [signals]}]
  rules jsonb not null,
  outcome text not null check (outcome in ('round', 'none', 'refused')),
  rule text,
  reason text not null,
  round bigint
);

-- ---------------------------------------------------------------- rounds
create table rounds (
  id bigint generated always as identity primary key,
  state text not null,
  reason text not null,
  rule text,
  decision bigint references decisions(id),
  policy bigint references policies(id),
  actions jsonb not null,
  parent int references versions(n),
  candidate int references versions(n),
  -- Everything a resumed round needs: frozen view, privacy plan, files made so far.
  work jsonb not null default '{}',
  progress jsonb,
  verdict jsonb,
  epsilon double precision not null default 0,
  error text,
  attempts int not null default 0,
  fence bigint not null default 0,
  started_at timestamptz not null default now(),
  finished_at timestamptz
);
create unique index rounds_one_running on rounds ((true)) where finished_at is null;

-- The frozen training view of a round: which rows it may train on and which it evaluates with.
create table round_rows (
  round bigint not null references rounds(id),
  kind text not null check (kind in ('feedback', 'document')),
  row_id bigint not null,
  primary key (round, kind, row_id)
);
create index round_rows_row on round_rows (kind, row_id);

-- Append-only, hash-chained: hash = sha256(prev_hash || canonical row). Composition reads `mechanism`, never `epsilon`.
create table ledger (
  id bigint primary key,
  round bigint references rounds(id),
  entry text not null check (entry in ('reserve', 'settle', 'declare')),
  -- [{noise_multiplier, sample_rate, steps}] for reserve and settle; {what, why} for declare.
  mechanism jsonb not null,
  delta double precision,
  -- The composed lifetime epsilon after this row, for reading; recomputed from mechanisms when checked.
  epsilon_total double precision,
  note text not null,
  at timestamptz not null default now(),
  prev_hash text not null,
  hash text not null
);
create index ledger_round on ledger (round);

create function ledger_is_append_only() returns trigger language plpgsql as $$
begin
  raise exception 'the ledger is append-only: % refused', lower(tg_op) using errcode = 'restrict_violation';
end $$;
create trigger ledger_no_change before update or delete on ledger
  for each row execute function ledger_is_append_only();
create trigger ledger_no_truncate before truncate on ledger
  for each statement execute function ledger_is_append_only();

-- ---------------------------------------------------------------- events out
create table outbox (
  id bigint generated always as identity primary key,
  type text not null,
  data jsonb not null,
  created_at timestamptz not null default now(),
  published_at timestamptz
);
create index outbox_unpublished on outbox (id) where published_at is null;

-- One leader holds the advisory lock; its fencing token is the number here.
create sequence fencing_token;
