-- A shop, as applications have it.

CREATE TABLE users (
    id bigint PRIMARY KEY, email text NOT NULL UNIQUE, name text, age int, active boolean NOT NULL,
    balance numeric(12, 2) NOT NULL, created_at timestamptz NOT NULL, settings jsonb NOT NULL,
    labels text[] NOT NULL, manager_id bigint REFERENCES users);
CREATE TABLE categories (id int PRIMARY KEY, parent_id int REFERENCES categories, name text NOT NULL);
CREATE TABLE products (
    id int PRIMARY KEY, category_id int NOT NULL REFERENCES categories, name text NOT NULL,
    price numeric(10, 2) NOT NULL, stock int NOT NULL, attributes jsonb NOT NULL, search tsvector NOT NULL);
CREATE TABLE orders (
    id int PRIMARY KEY, user_id bigint NOT NULL REFERENCES users, status text NOT NULL,
    total numeric(10, 2) NOT NULL, placed_at timestamptz NOT NULL, deleted_at timestamptz);
CREATE TABLE order_lines (
    order_id int NOT NULL REFERENCES orders, product_id int NOT NULL REFERENCES products,
    quantity int NOT NULL, price numeric(10, 2) NOT NULL, PRIMARY KEY (order_id, product_id));
CREATE TABLE "AspNetUsers" ("Id" int PRIMARY KEY, "UserName" text NOT NULL, "ConcurrencyStamp" uuid);
CREATE TABLE tags (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE taggings (
    id int PRIMARY KEY, tag_id int NOT NULL REFERENCES tags, taggable_type text NOT NULL, taggable_id int NOT NULL);

INSERT INTO users SELECT i, 'user' || i || '@example.org', 'User ' || i, 20 + i % 50, i % 7 <> 0, i * 10.5,
    timestamptz '2024-01-01 00:00+00' + i * interval '1 day', jsonb_build_object('theme', i % 2, 'nested', jsonb_build_array(i)),
    ARRAY['a' || i % 3, 'b'], nullif(i / 10, 0) FROM generate_series(1, 60) i;
INSERT INTO categories SELECT i, nullif(i / 3, 0), 'Category ' || i FROM generate_series(1, 12) i;
INSERT INTO products SELECT i, 1 + i % 12, 'Product ' || i, i * 1.25, i % 20, jsonb_build_object('size', i % 4, 'color', 'red'),
    to_tsvector('simple', 'product number ' || i) FROM generate_series(1, 80) i;
INSERT INTO orders SELECT i, 1 + i % 60, (ARRAY['new', 'paid', 'sent'])[1 + i % 3], i * 3.5,
    timestamptz '2024-02-01 00:00+00' + i * interval '1 hour', NULL FROM generate_series(1, 120) i;
INSERT INTO order_lines SELECT 1 + i % 120, 1 + i % 80, 1 + i % 5, i * 0.5 FROM generate_series(1, 240) i;
INSERT INTO "AspNetUsers" SELECT i, 'name' || i, NULL FROM generate_series(1, 5) i;
INSERT INTO tags SELECT i, 'tag ' || i FROM generate_series(1, 5) i;
INSERT INTO taggings SELECT i, 1 + i % 5, 'Product', i FROM generate_series(1, 30) i;
