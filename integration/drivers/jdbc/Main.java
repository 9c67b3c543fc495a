import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;

/** pgjdbc: server-side prepared statements, binary transfer, fetch sizes, batches, savepoints. */
public final class Main {
    private static final String SLOW_READ =
        "SELECT count(*) FROM generate_series(1, 40000) a JOIN generate_series(1, 40000) b ON a + b < 0";

    private interface Action {
        void run() throws Exception;
    }

    private interface Check {
        void run(Connection connection) throws Exception;
    }

    private static void section(String name) {
        System.out.println("# " + name);
    }

    private static void print(Object... values) {
        System.out.println(Arrays.deepToString(values));
    }

    private static void fails(String what, Action action) throws Exception {
        try {
            action.run();
            print(what, "did not fail");
        } catch (PSQLException error) {
            ServerErrorMessage message = error.getServerErrorMessage();
            print(what, error.getSQLState(), error.getMessage());
            if (message != null) {
                print("  detail", message.getDetail(), message.getConstraint(), message.getColumn(),
                    message.getPosition());
            }
        }
    }

    private static Connection connect(String... settings) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("currentSchema", "jdbc");
        properties.setProperty("prepareThreshold", "3");
        for (int i = 0; i < settings.length; i += 2) {
            properties.setProperty(settings[i], settings[i + 1]);
        }
        return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":"
            + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
    }

    private static void execute(Connection connection, String... texts) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String text : texts) {
                statement.execute(text);
            }
        }
    }

    private static List<List<Object>> rows(Connection connection, String text, Object... values)
        throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            for (int i = 0; i < values.length; i++) {
                statement.setObject(i + 1, values[i]);
            }
            try (ResultSet result = statement.executeQuery()) {
                return all(result);
            }
        }
    }

    private static List<List<Object>> all(ResultSet result) throws SQLException {
        List<List<Object>> rows = new ArrayList<>();
        while (result.next()) {
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= result.getMetaData().getColumnCount(); i++) {
                row.add(result.getObject(i));
            }
            rows.add(row);
        }
        return rows;
    }

    private static void prepared(Connection connection) throws Exception {
        section("prepared");
        try (PreparedStatement insert = connection.prepareStatement(
            "INSERT INTO item (name, price) VALUES (?, ?)", Statement.RETURN_GENERATED_KEYS)) {
            for (int i = 0; i < 8; i++) {
                insert.setString(1, "item " + i);
                insert.setBigDecimal(2, BigDecimal.valueOf(i).divide(BigDecimal.valueOf(4)));
                print(insert.executeUpdate(), all(insert.getGeneratedKeys()));
            }
        }
        try (PreparedStatement read = connection.prepareStatement(
            "SELECT name, price FROM item WHERE id = ?")) {
            print(read.getParameterMetaData().getParameterTypeName(1),
                read.getMetaData().getColumnTypeName(2));
            for (int i = 0; i < 8; i++) {
                read.setInt(1, i + 1);
                print(all(read.executeQuery()));
            }
        }
        try (PreparedStatement update = connection.prepareStatement(
            "UPDATE item SET price = price + ? WHERE id <= ?")) {
            for (int i = 0; i < 5; i++) {
                update.setInt(1, i);
                update.setInt(2, 4);
                print(update.executeUpdate());
            }
            for (int i = 0; i < 10; i++) {
                update.setInt(1, i);
                update.setInt(2, i);
                update.addBatch();
            }
            print(update.executeBatch());
        }
        try (PreparedStatement batch = connection.prepareStatement(
            "INSERT INTO item (id, name) VALUES (?, ?)")) {
            for (int i : new int[] {500, 501, 1, 502}) {
                batch.setInt(1, i);
                batch.setString(2, "batch");
                batch.addBatch();
            }
            try {
                batch.executeBatch();
            } catch (BatchUpdateException error) {
                print(error.getSQLState(), error.getUpdateCounts());
            }
        }
        print(rows(connection, "SELECT id FROM item WHERE name = 'batch' ORDER BY id"));
        try (Statement several = connection.createStatement()) {
            boolean isResult = several.execute(
                "SELECT 1; INSERT INTO item (name) VALUES ('many'); SELECT count(*) FROM item WHERE name = 'many'");
            while (isResult || several.getUpdateCount() != -1) {
                print(isResult ? all(several.getResultSet()) : several.getUpdateCount());
                isResult = several.getMoreResults();
            }
        }
        try (var call = connection.prepareCall("{ ? = call twice(?) }")) {
            call.registerOutParameter(1, Types.INTEGER);
            call.setInt(2, 21);
            call.execute();
            print(call.getInt(1));
        }
        try (var call = connection.prepareCall("call put(?, ?)")) {
            call.setInt(1, 5000);
            call.setInt(2, 0);
            call.registerOutParameter(2, Types.INTEGER);
            call.execute();
            print(call.getInt(2), rows(connection, "SELECT v FROM own WHERE id = 5000"));
        }
    }

    private static void transaction(Connection connection) throws Exception {
        section("transaction");
        connection.setAutoCommit(false);
        execute(connection, "DELETE FROM item");
        print(rows(connection, "SELECT count(*) FROM item"));
        connection.rollback();
        print(rows(connection, "SELECT count(*) FROM item"));
        execute(connection, "INSERT INTO item (name) VALUES ('lost')");
        fails("broken", () -> execute(connection, "SELECT 1/0"));
        fails("failed block", () -> execute(connection, "SELECT 1"));
        fails("commit", connection::commit);
        connection.rollback();
        print(rows(connection, "SELECT count(*) FROM item WHERE name = 'lost'"));
        connection.commit();
        connection.setReadOnly(true);
        print(rows(connection, "SELECT count(*) FROM item"));
        fails("read only", () -> execute(connection, "INSERT INTO item (name) VALUES ('no')"));
        connection.rollback();
        connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
        print(connection.getTransactionIsolation(), rows(connection, "SELECT count(*) FROM item"));
        connection.commit();
        connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
        connection.setReadOnly(true);
        print(rows(connection, "SELECT count(*) FROM item WHERE id = ?", 1));
        fails("read only session", () -> execute(connection, "INSERT INTO item (name) VALUES ('no')"));
        connection.setReadOnly(false);
        execute(connection, "INSERT INTO item (name) VALUES ('yes')");
        print(rows(connection, "SELECT count(*) FROM item WHERE name = 'yes'"));
        try (Connection careful = connect("autosave", "always")) {
            careful.setAutoCommit(false);
            execute(careful, "INSERT INTO item (name) VALUES ('saved')");
            fails("autosave", () -> execute(careful, "SELECT 1/0"));
            print(rows(careful, "SELECT count(*) FROM item WHERE name = 'saved'"));
            careful.commit();
        }
    }

    private static void savepoint(Connection connection) throws Exception {
        section("savepoint");
        String names = "SELECT name FROM item WHERE name IN ('outer', 'inner')";
        connection.setAutoCommit(false);
        execute(connection, "INSERT INTO item (name) VALUES ('outer')");
        Savepoint inner = connection.setSavepoint("inner_one");
        execute(connection, "INSERT INTO item (name) VALUES ('inner')");
        fails("twice", () -> execute(connection, "INSERT INTO item (id, name) VALUES (1, 'x')"));
        connection.rollback(inner);
        print(rows(connection, names));
        connection.releaseSavepoint(inner);
        connection.commit();
        connection.setAutoCommit(true);
        print(rows(connection, names));
    }

    private static void copy(Connection connection) throws Exception {
        section("copy");
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 2000; i++) {
            lines.append(i).append("\tn\u00e4me ").append(i).append('\n');
        }
        print(copy.copyIn("COPY copied FROM STDIN", new StringReader(lines.toString())));
        StringWriter text = new StringWriter();
        print(copy.copyOut("COPY (SELECT * FROM copied ORDER BY id LIMIT 3) TO STDOUT", text), text);
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        print(copy.copyOut("COPY copied TO STDOUT (FORMAT binary)", all), all.size());
        print(copy.copyIn("COPY copied FROM STDIN (FORMAT binary)",
            new ByteArrayInputStream(all.toByteArray())));
        fails("copy", () -> copy.copyIn("COPY copied FROM STDIN", new StringReader("1\tgood\nbad\trow\n")));
        fails("no table", () -> copy.copyIn("COPY missing FROM STDIN", new StringReader("1\n")));
        CopyIn abandoned = copy.copyIn("COPY copied FROM STDIN");
        byte[] line = "1\tgood\n".getBytes(StandardCharsets.UTF_8);
        abandoned.writeToCopy(line, 0, line.length);
        abandoned.cancelCopy();
        print(rows(connection, "SELECT count(*), sum(id) FROM copied"));
    }

    private static void notifications(Connection connection) throws Exception {
        section("notify");
        try (Connection other = connect()) {
            PGConnection listening = other.unwrap(PGConnection.class);
            execute(other, "LISTEN jdbc_channel");
            execute(connection, "NOTIFY jdbc_channel, 'first'");
            rows(connection, "SELECT pg_notify(?, ?)", "jdbc_channel", "second");
            execute(connection, "BEGIN; NOTIFY jdbc_channel, 'third'; NOTIFY jdbc_channel, 'third'; COMMIT");
            execute(other, "NOTIFY jdbc_channel, 'own'");
            List<String> got = new ArrayList<>();
            while (got.size() < 4) {
                PGNotification[] some = listening.getNotifications(20000);
                if (some == null || some.length == 0) {
                    break;
                }
                for (PGNotification one : some) {
                    got.add(one.getName() + " " + one.getParameter() + " " + (one.getPID() > 0));
                }
            }
            print(got);
            execute(other, "UNLISTEN *");
            execute(connection, "NOTIFY jdbc_channel, 'unheard'");
            print(rows(other, "SELECT 1"), listening.getNotifications());
        }
    }

    private static void cancel(Connection connection) throws Exception {
        section("cancel");
        for (String text : new String[] {"SELECT pg_sleep(30)", SLOW_READ}) {
            try (Statement statement = connection.createStatement()) {
                Thread timer = new Thread(() -> {
                    try {
                        Thread.sleep(500);
                        statement.cancel();
                    } catch (InterruptedException | SQLException error) {
                        print(error.toString());
                    }
                });
                timer.start();
                fails("cancelled", () -> statement.execute(text));
                timer.join();
            }
            print(rows(connection, "SELECT 'usable'"));
            try (Statement statement = connection.createStatement()) {
                statement.setQueryTimeout(1);
                fails("timed out", () -> statement.execute(text));
            }
            print(rows(connection, "SELECT 'usable'"));
        }
    }

    private static void binary(Connection connection) throws Exception {
        section("binary");
        byte[] body = new byte[256000];
        for (int i = 0; i < body.length; i++) {
            body[i] = (byte) i;
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO blob VALUES (?, ?)")) {
            insert.setInt(1, 1);
            insert.setBytes(2, body);
            insert.executeUpdate();
            insert.setInt(1, 2);
            insert.setBinaryStream(2, new ByteArrayInputStream(body), body.length);
            insert.executeUpdate();
        }
        try (PreparedStatement read = connection.prepareStatement("SELECT body FROM blob ORDER BY id")) {
            for (int i = 0; i < 6; i++) {
                try (ResultSet result = read.executeQuery()) {
                    while (result.next()) {
                        print(Arrays.equals(result.getBytes(1), body));
                    }
                }
            }
        }
        connection.setAutoCommit(false);
        LargeObjectManager objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = objects.createLO();
        try (LargeObject object = objects.open(oid, LargeObjectManager.WRITE)) {
            object.write(body);
        }
        try (LargeObject object = objects.open(oid, LargeObjectManager.READ)) {
            object.seek(1000);
            print(object.read(8), object.size());
        }
        connection.commit();
        connection.setAutoCommit(true);
        print(rows(connection, "SELECT length(lo_get(?::oid))", oid));
        print(rows(connection, "SELECT lo_unlink(?::oid)", oid));
    }

    private static void types(Connection connection) throws Exception {
        section("types");
        OffsetDateTime at = OffsetDateTime.of(2024, 2, 29, 12, 30, 1, 123456000, ZoneOffset.UTC);
        PGobject json = new PGobject();
        json.setType("jsonb");
        json.setValue("{\"a\": [1, 2.5]}");
        Object[][] values = {
            {"int[]", connection.createArrayOf("int4", new Integer[] {1, null, 3})},
            {"text[]", connection.createArrayOf("text", new String[] {"a", "q\"uote", "n\u00e4me"})},
            {"float8[]", connection.createArrayOf("float8", new Double[] {0.1, 2.5})}, {"jsonb", json},
            {"timestamptz", at}, {"timestamp", at.toLocalDateTime()}, {"date", LocalDate.of(2024, 2, 29)},
            {"numeric", new BigDecimal("12345678901234567890.123456789")}, {"float8", 0.1}, {"float4", 0.5f},
            {"bool", true}, {"int8", Long.MAX_VALUE}, {"int2", (short) 7}, {"text", "n\u00e4me"},
            {"uuid", UUID.fromString("6f1d5b4a-1111-4222-8333-444455556666")},
        };
        for (Object[] value : values) {
            String text = "SELECT ?::" + value[0] + " AS v";
            try (PreparedStatement read = connection.prepareStatement(text)) {
                for (int i = 0; i < 6; i++) {
                    read.setObject(1, value[1]);
                    try (ResultSet result = read.executeQuery()) {
                        result.next();
                        Object got = result.getObject(1);
                        got = got instanceof Array ? ((Array) got).getArray() : got;
                        if (value[1] == at) {
                            got = result.getObject(1, OffsetDateTime.class);
                        }
                        if (i == 0 || i == 5) {
                            print(value[0], got, result.getString(1));
                        }
                    }
                }
            }
        }
    }

    private static void errors(Connection connection) throws Exception {
        section("error");
        fails("syntax", () -> execute(connection, "SELEC 1"));
        fails("no table", () -> rows(connection, "SELECT * FROM missing WHERE id = ?", 1));
        fails("unique", () -> execute(connection, "INSERT INTO item (id, name) VALUES (1, 'x')"));
        fails("not null", () -> execute(connection, "INSERT INTO item (id, name) VALUES (900, NULL)"));
        fails("division", () -> execute(connection, "SELECT price / 0 FROM item"));
        fails("input", () -> rows(connection, "SELECT ?::int", "x"));
        fails("batch", () -> execute(connection, "INSERT INTO item (name) VALUES ('undone'); SELECT 1/0"));
        print(rows(connection, "SELECT count(*) FROM item WHERE name = 'undone'"));
        try (Statement statement = connection.createStatement()) {
            statement.execute("DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$");
            for (SQLWarning w = statement.getWarnings(); w != null; w = w.getNextWarning()) {
                print(w.getSQLState(), w.getMessage());
            }
        }
        try (ResultSet tables = connection.getMetaData().getTables(null, "jdbc", "%", new String[] {"TABLE"})) {
            while (tables.next()) {
                print(tables.getString("TABLE_NAME"));
            }
        }
    }

    private static void parts(Connection connection) throws Exception {
        section("parts");
        for (boolean readOnly : new boolean[] {false, true}) {
            connection.setReadOnly(readOnly);
            connection.setAutoCommit(false);
            for (int i = 0; i < 5; i++) {
                try (PreparedStatement read = connection.prepareStatement(
                    "SELECT n, repeat('x', n % 7) FROM number WHERE n > ? ORDER BY n")) {
                    read.setFetchSize(100);
                    read.setInt(1, 0);
                    long total = 0;
                    try (ResultSet result = read.executeQuery()) {
                        while (result.next()) {
                            total += result.getInt(1);
                        }
                    }
                    print(total);
                }
            }
            try (Statement first = connection.createStatement(); Statement second = connection.createStatement()) {
                first.setFetchSize(10);
                second.setFetchSize(7);
                ResultSet one = first.executeQuery("SELECT n FROM number ORDER BY n");
                ResultSet two = second.executeQuery("SELECT n FROM number ORDER BY n DESC");
                int total = 0;
                for (int i = 0; i < 100; i++) {
                    one.next();
                    two.next();
                    total += one.getInt(1) * two.getInt(1);
                }
                print(total);
                one.close();
            }
            connection.commit();
            connection.setAutoCommit(true);
        }
        connection.setReadOnly(false);
        try (Statement scrolling = connection.createStatement(
            ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet result = scrolling.executeQuery("SELECT id, name FROM item ORDER BY id");
            result.absolute(3);
            result.updateString("name", "updated");
            result.updateRow();
            print(rows(connection, "SELECT name FROM item WHERE id = ?", result.getInt(1)));
        }
    }

    private static void readback(Connection connection) throws Exception {
        section("readback");
        int seen = 0;
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO own VALUES (?, ?)");
            PreparedStatement read = connection.prepareStatement("SELECT v FROM own WHERE id = ?")) {
            for (int i = 0; i < 200; i++) {
                insert.setInt(1, i);
                insert.setString(2, "v" + i);
                insert.executeUpdate();
                read.setInt(1, i);
                try (ResultSet result = read.executeQuery()) {
                    seen += result.next() && result.getString(1).equals("v" + i) ? 1 : 0;
                }
            }
        }
        print(seen);
    }

    private static void temporary(Connection connection) throws Exception {
        section("temporary");
        execute(connection, "CREATE TEMP TABLE scratch (id int)", "INSERT INTO scratch SELECT generate_series(1, 5)");
        for (int i = 0; i < 3; i++) {
            print(rows(connection, "SELECT sum(id) FROM scratch"));
        }
        try (Connection other = connect()) {
            fails("not of another", () -> rows(other, "SELECT * FROM scratch"));
        }
        execute(connection, "DROP TABLE scratch");
    }

    private static void settings(Connection connection) throws Exception {
        section("settings");
        execute(connection, "SET work_mem = '5MB'");
        rows(connection, "SELECT set_config('jdbc.key', ?, false)", "value");
        for (int i = 0; i < 3; i++) {
            print(rows(connection, "SHOW work_mem"), rows(connection, "SELECT current_setting('jdbc.key')"),
                rows(connection, "SELECT current_setting('search_path')"), connection.getSchema());
        }
        connection.setSchema("public");
        fails("other schema", () -> rows(connection, "SELECT max(n) FROM number"));
        connection.setSchema("jdbc");
        print(rows(connection, "SELECT max(n) FROM number"));
        connection.setClientInfo("ApplicationName", "renamed");
        print(rows(connection, "SHOW application_name"),
            connection.unwrap(PGConnection.class).getParameterStatus("application_name"));
        execute(connection, "RESET work_mem");
        print(rows(connection, "SHOW work_mem"));
        try (Connection other = connect("options", "-c statement_timeout=12345", "ApplicationName", "named")) {
            for (int i = 0; i < 3; i++) {
                print(rows(other, "SHOW statement_timeout"), rows(other, "SELECT current_setting('application_name')"),
                    rows(other, "SELECT max(n) FROM number"), rows(other, "SHOW TimeZone"));
            }
        }
    }

    private static void locks(Connection connection) throws Exception {
        section("locks");
        String lock = "SELECT pg_try_advisory_lock(4711, 4)";
        try (Connection other = connect()) {
            print(rows(connection, lock), rows(other, lock));
            print(rows(connection, "SELECT n FROM number WHERE n = 1"));
            print(rows(connection, "SELECT pg_advisory_unlock(4711, 4)"), rows(other, lock));
            rows(other, "SELECT pg_advisory_unlock_all()");
            connection.setAutoCommit(false);
            rows(connection, "SELECT pg_advisory_xact_lock(4711, 4)");
            print(rows(other, lock));
            connection.commit();
            connection.setAutoCommit(true);
            print(rows(other, lock));
        }
    }

    private static void modes(Connection connection) throws Exception {
        section("modes");
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            try (Connection other = connect("preferQueryMode", mode, "reWriteBatchedInserts", "true")) {
                for (int i = 0; i < 6; i++) {
                    print(mode, rows(other, "SELECT n FROM number WHERE n = ?", i + 1));
                }
                try (PreparedStatement batch = other.prepareStatement("INSERT INTO own VALUES (?, ?)")) {
                    for (int i = 0; i < 50; i++) {
                        batch.setInt(1, 10000 + i);
                        batch.setString(2, mode);
                        batch.addBatch();
                    }
                    print(batch.executeBatch().length);
                }
                print(rows(other, "SELECT count(*) FROM own WHERE v = ?", mode));
                execute(other, "DELETE FROM own WHERE id >= 10000");
                print(rows(other, "SELECT count(*) FROM own WHERE v = ?", mode));
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Check[] checks = {
            Main::prepared, Main::transaction, Main::savepoint, Main::copy, Main::notifications, Main::cancel,
            Main::readback, Main::binary, Main::types, Main::errors, Main::parts, Main::temporary,
            Main::settings, Main::locks, Main::modes,
        };
        for (Check check : checks) {
            try (Connection own = connect()) {
                check.run(own);
            }
        }
        section("end");
    }
}
