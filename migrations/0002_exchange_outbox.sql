-- Exchanges still to be published to learnd.exchanges (opt-in): names only, so that erasing the exchange erases its place here too.
create table exchange_outbox (
  response_id text primary key references exchanges(response_id) on delete cascade
);
