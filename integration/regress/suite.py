"""PostgreSQL's regression and isolation suites: their sources, what they need, what a run takes of them.

The sources come from Debian's source package, by apt with a configuration and lists of its own
below the cache directory: nothing of the machine's configuration changes.
"""

import glob
import os
import re
import shutil
import subprocess
import tarfile
import tempfile

REGRESS, ISOLATION = "src/test/regress", "src/test/isolation"
# The list of tests, by suite.
SCHEDULES = {REGRESS: "parallel_schedule", ISOLATION: "isolation_schedule"}
# Tests that others need, by the tests that need them, as far as `parallel_schedule` and the tests' own
# comments say so. All tests need the first.
SETUP = "test_setup"
NEEDS = {
    "aggregates": ["create_index", "create_aggregate"],
    "amutils": ["geometry", "create_index", "create_index_spgist", "hash_index", "brin"],
    "create_index": ["create_misc"],
    "create_view": ["create_misc"],
    "geometry": ["point", "lseg", "line", "box", "path", "polygon", "circle"],
    "horology": ["date", "time", "timetz", "timestamp", "timestamptz", "interval"],
    "join": ["create_misc"],
    "multirangetypes": ["rangetypes"],
    "psql": ["create_am"],
    "select_parallel": ["create_misc"],
    "select_views": ["create_view"],
    "with": ["create_misc"],
}
# Most tests of the later groups use its indexes.
INDEXES = "create_index"
# A third of the suite, the one that asks most of a proxy: settings, roles, transactions, cursors,
# prepared statements, temporary objects, COPY, notices, catalogs and reads of many kinds.
THIRD = """
tablespace boolean char varchar text int4 int8 float8 numeric txid uuid enum pg_lsn strings date time
timestamptz interval geometry horology regex type_sanity opr_sanity xid mvcc database encoding copy
copyselect insert insert_conflict create_function_c create_misc create_procedure create_table create_type
create_index create_view create_aggregate create_function_sql constraints triggers select inherit
updatable_views errors sanity_check select_into select_distinct subselect join aggregates transactions
portals arrays update delete namespace prepared_xacts privileges init_privs collate matview lock rowsecurity
password identity async misc_functions sysviews create_role rules psql guc tsearch window
advisory_lock json jsonb plancache plpgsql copy2 temp prepare sequence largeobject with returning
"""


class SuiteError(Exception):
    """What went wrong, for the user."""


class Suite:
    """One suite below the cache directory, downloaded and built if it is not there yet."""

    def __init__(self, part, programs, cache, say):
        self.part, self.programs, self.cache, self.say = part, programs, cache, say
        self.schedule = SCHEDULES[part]
        self.needs = with_needs if part == REGRESS else with_nothing
        self.version = self._config("--version").split()[1]
        self.major = self.version.split(".")[0]
        os.makedirs(cache, exist_ok=True)

    def sources(self, given=None):
        """The directory with expected/ and the schedule; `given` is a source tree."""
        if given:
            return os.path.join(os.path.abspath(given), self.part)
        pattern = os.path.join(self.cache, f"source-{self.major}.*", self.part, self.schedule)
        found = glob.glob(pattern)
        if not found:
            self._download_sources()
            found = glob.glob(pattern)
        if not found:
            raise SuiteError(f"the source package has no {self.part}")
        return os.path.dirname(sorted(found)[-1])

    def libraries(self, sources):
        """The directory with regress.so and the two contrib libraries that `triggers` needs, if needed."""
        if self.part != REGRESS:
            return None
        directory = os.path.join(self.cache, f"libraries-{self.version}")
        os.makedirs(directory, exist_ok=True)
        for name in ("autoinc.so", "refint.so"):
            if not os.path.exists(os.path.join(directory, name)):
                shutil.copy(os.path.join(self._config("--pkglibdir"), name), directory)
        library = os.path.join(directory, "regress.so")
        if not os.path.exists(library):
            self.say("building regress.so")
            command = ["cc", "-O2", "-shared", "-fPIC", f"-I{self._headers()}", "-o", library + ".new"]
            run([*command, os.path.join(sources, "regress.c")])
            os.rename(library + ".new", library)
        return directory

    def runner(self):
        """The program that runs the tests and compares."""
        name = "pg_regress" if self.part == REGRESS else "pg_isolation_regress"
        path = os.path.join(os.path.dirname(self._config("--pgxs")), "..", "test", os.path.basename(self.part), name)
        if not os.access(path, os.X_OK):
            raise SuiteError(f"no {name} at {path}")
        return os.path.normpath(path)

    def psql_directory(self, sources):
        """The directory with the psql of the suite's own version, or of any if it is not used.

        psql 15.20 drops everything behind a COPY FROM STDIN that the server refused, up to `\\.`: with
        the scripts of an earlier version that is most of a file.
        """
        match = re.search(r"source-([\d.]+)", sources)
        if self.part != REGRESS or not match or match.group(1) == self.version:
            return self.programs
        version = match.group(1)
        unpacked = os.path.join(self.cache, f"client-{version}")
        directory = os.path.join(unpacked, f"usr/lib/postgresql/{self.major}/bin")
        if not os.path.exists(os.path.join(directory, "psql")):
            package = f"postgresql-client-{self.major}"
            self.say(f"downloading {package} {version}")
            self._apt_update()
            found = self._offered(package, version)
            if not found:
                hint = f"name a source tree of {self.version} with --source"
                raise SuiteError(f"{package} {version} cannot be had; {hint}")
            self._download(f"{package}={found}", unpacked)
        return directory

    def _offered(self, package, version):
        """The package's own name of this version of PostgreSQL, if it can be had."""
        offered = run(["apt-cache", *self._apt_options(), "madison", package])
        found = re.search(rf"\| *({re.escape(version)}\S*) *\|", offered)
        return found and found.group(1)

    def _config(self, option):
        return run([os.path.join(self.programs, "pg_config"), option]).strip()

    def _headers(self):
        """The server's header files: installed ones, or those of the package, unpacked in the cache.

        Of the server's own version if it can be had: 15.20 declares functions that 15.18 does not have.
        """
        installed = self._config("--includedir-server")
        if os.path.exists(os.path.join(installed, "postgres.h")):
            return installed
        unpacked = os.path.join(self.cache, f"headers-{self.version}")
        headers = os.path.join(unpacked, f"usr/include/postgresql/{self.major}/server")
        if not os.path.exists(os.path.join(headers, "postgres.h")):
            self._apt_update()
            package = f"postgresql-server-dev-{self.major}"
            found = self._offered(package, self.version)
            if not found:
                self.say(f"{package} {self.version} cannot be had; taking the newest")
            self._download(f"{package}={found}" if found else package, unpacked)
        return headers

    def _download(self, package, target):
        """Unpacks a binary package; nothing is installed."""
        directory = tempfile.mkdtemp(dir=self._downloads())
        run(["apt-get", *self._apt_options(), "download", package], directory)
        (archive,) = os.listdir(directory)
        run(["dpkg", "-x", os.path.join(directory, archive), target])
        shutil.rmtree(directory)

    def _download_sources(self):
        package = f"postgresql-{self.major}"
        self.say(f"downloading the sources of {package}")
        self._apt_update()
        offered = run(["apt-cache", *self._apt_options(), "showsrc", package])
        versions = list(dict.fromkeys(re.findall(r"^Version: (\S+)$", offered, re.MULTILINE)))
        # The installed version first; not every mirror has the sources of every update.
        versions.sort(key=lambda version: [int(part) for part in re.findall(r"\d+", version)], reverse=True)
        versions.sort(key=lambda version: not version.startswith(self.version))
        for version in versions:
            try:
                command = ["apt-get", *self._apt_options(), "source", "--download-only", f"{package}={version}"]
                run(command, self._downloads())
            except subprocess.CalledProcessError as error:
                self.say(f"{version} cannot be had: {error.stderr.strip().splitlines()[-1]}")
                continue
            upstream = version.split("-")[0]
            self._unpack(os.path.join(self._downloads(), f"{package}_{upstream}.orig.tar.bz2"), upstream)
            return
        raise SuiteError(f"no source of {package} could be downloaded; name a source tree with --source")

    def _unpack(self, archive, upstream):
        """Only the suites."""
        target = os.path.join(self.cache, f"source-{upstream}")
        shutil.rmtree(target + ".new", ignore_errors=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                _, _, path = member.name.partition("/")
                wanted = path.startswith(tuple(part + "/" for part in SCHEDULES))
                if wanted and (member.isfile() or member.isdir()):
                    member.name = path
                    tar.extract(member, target + ".new")
        # Perhaps of an earlier version of this file, without one of the suites.
        shutil.rmtree(target, ignore_errors=True)
        os.rename(target + ".new", target)

    def _downloads(self):
        path = os.path.join(self.cache, "downloads")
        os.makedirs(path, exist_ok=True)
        return path

    def _apt_options(self):
        settings = {
            "Dir::State::Lists": "lists",
            "Dir::Cache": "archives",
            "Dir::Etc::SourceParts": "parts",
        }
        options = ["-q", "-o", "Dir::Etc::SourceList=/dev/null", "-o", "APT::Sandbox::User=root"]
        for name, directory in settings.items():
            path = os.path.join(self.cache, "apt", directory)
            os.makedirs(os.path.join(path, "partial"), exist_ok=True)
            options += ["-o", f"{name}={path}"]
        return options

    def _apt_update(self):
        """Lists of this machine's own Debian archives, with the sources that they have."""
        with open("/etc/os-release", encoding="utf-8") as file:
            codename = re.search(r"^VERSION_CODENAME=(\w+)$", file.read(), re.MULTILINE)
        if not codename or not os.path.exists("/etc/debian_version"):
            raise SuiteError("sources are downloaded on Debian only; name a source tree with --source")
        form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
        targets = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
        archives = sorted({tuple(line.split()) for line in targets.splitlines()})
        sources = "".join(
            f"Types: deb deb-src\nURIs: {place}\nSuites: {release}\nComponents: {component}\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
            for place, release, component in archives
            if release.startswith(codename.group(1)) and component == "main"
        )
        if not sources:
            raise SuiteError("apt knows no archive of this release; name a source tree with --source")
        options = self._apt_options()
        with open(os.path.join(self.cache, "apt", "parts", "debian.sources"), "w", encoding="utf-8") as file:
            file.write(sources)
        run(["apt-get", *options, "update"])


def run(command, directory=None):
    """Its output."""
    return subprocess.run(
        command, cwd=directory, check=True, text=True, stdin=subprocess.DEVNULL, capture_output=True
    ).stdout


def with_needs(wanted, groups):
    """`wanted` and every test that one of them needs."""
    position = {test: index for index, group in enumerate(groups) for test in group}
    unknown = sorted(set(wanted) - set(position))
    if unknown:
        raise SuiteError(f"not in the schedule: {', '.join(unknown)}")
    chosen, waiting = set(), [SETUP, *wanted]
    while waiting:
        test = waiting.pop()
        if test in chosen:
            continue
        chosen.add(test)
        waiting += NEEDS.get(test, [])
        if position[test] > position[INDEXES]:
            waiting.append(INDEXES)
    return chosen


def with_nothing(wanted, groups):
    """`wanted`, each of which makes what it needs."""
    unknown = sorted(set(wanted) - {test for group in groups for test in group})
    if unknown:
        raise SuiteError(f"not in the schedule: {', '.join(unknown)}")
    return set(wanted)


def groups_of(schedule):
    """The tests of a schedule file, group by group."""
    with open(schedule, encoding="utf-8") as file:
        return [line[5:].split() for line in file if line.startswith("test:")]


def reduced(schedule, wanted, needs):
    """The text of a schedule with only these tests and what they need, in the same groups and order."""
    chosen = needs(wanted, groups_of(schedule))
    lines = []
    with open(schedule, encoding="utf-8") as file:
        for line in file:
            if not line.startswith("test:"):
                lines.append(line)
                continue
            left = [test for test in line[5:].split() if test in chosen]
            if left:
                lines.append(f"test: {' '.join(left)}\n")
    return "".join(lines)
