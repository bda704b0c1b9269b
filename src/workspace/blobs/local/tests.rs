use std::os::unix::fs::symlink;

use super::*;

fn opened() -> (tempfile::TempDir, LocalObjects) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let objects = LocalObjects::open(&dir.path().join("blobs")).expect("opened");
    (dir, objects)
}

fn put(objects: &LocalObjects, bytes: &[u8]) -> Digest {
    let name = Digest::of(bytes);
    let mut staged = objects.stage().expect("staged");
    staged.write(bytes).expect("written");
    staged.publish(&name).expect("published");
    name
}

fn read(objects: &LocalObjects, name: &Digest) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    objects.open(name).expect("answers")?.read_to_end(&mut bytes).expect("readable");
    Some(bytes)
}

#[test]
fn an_object_is_there_once_it_is_published_and_only_for_its_owner() {
    let (_dir, objects) = opened();
    let name = Digest::of(b"abc");
    let mut staged = objects.stage().expect("staged");
    staged.write(b"ab").expect("written");
    staged.write(b"c").expect("written");
    assert_eq!((read(&objects, &name), objects.list().expect("listed").len()), (None, 0));
    staged.publish(&name).expect("published");
    assert_eq!(read(&objects, &name).as_deref(), Some(&b"abc"[..]));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let dir = &objects.shared.dir;
    assert_eq!((mode(&objects.shared.path(&name)), mode(dir)), (0o400, 0o700));
    assert_eq!(fs::read_dir(dir.join(PARTIAL)).expect("there").count(), 0);

    put(&objects, b"abc");
    let listed = objects.list().expect("listed");
    assert_eq!(listed.iter().map(|stored| (stored.name, stored.size)).collect::<Vec<_>>(), [(name, 3)]);
    let mut open = objects.open(&name).expect("answers").expect("there");
    objects.delete(&name).expect("deleted");
    objects.delete(&name).expect("a second time is no error");
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).expect("still readable");
    assert_eq!((bytes.as_slice(), read(&objects, &name)), (&b"abc"[..], None));
}

#[test]
fn links_and_foreign_files_are_neither_listed_nor_read() {
    let (dir, objects) = opened();
    let (inside, outside) = (put(&objects, b"inside"), Digest::of(b"outside"));
    let secret = dir.path().join("secret");
    fs::write(&secret, "outside").expect("written");
    let path = objects.shared.path(&outside);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    symlink(&secret, &path).expect("linked");
    // A whole folder of somebody else under a name that fits.
    let elsewhere = Digest::of(b"elsewhere");
    let name = elsewhere.to_string();
    fs::create_dir(dir.path().join("others")).expect("made");
    fs::write(dir.path().join("others").join(&name[2..]), "elsewhere").expect("written");
    symlink(dir.path().join("others"), objects.shared.dir.join(&name[..2])).expect("linked");
    fs::write(objects.shared.dir.join(inside.to_string()), "inside").expect("a name without its folder");
    fs::write(objects.shared.dir.join(PARTIAL).join(&name[2..]), "x").expect("written");

    let listed: Vec<_> = objects.list().expect("listed").into_iter().map(|stored| stored.name).collect();
    assert_eq!(listed, [inside]);
    assert_eq!((read(&objects, &outside), read(&objects, &elsewhere)), (None, None));
    put(&objects, b"outside");
    assert_eq!(read(&objects, &outside).as_deref(), Some(&b"outside"[..]), "in place of the link");
    assert_eq!(fs::read(&secret).expect("readable"), b"outside");
}

#[test]
fn few_and_many_objects_are_made_durable_and_one_that_is_not_there_is_an_error() {
    let (_dir, objects) = opened();
    let names: Vec<_> = (0..=SYNCED_ONE_BY_ONE).map(|n| put(&objects, &[n as u8])).collect();
    objects.make_durable(&names[..1]).expect("one by one");
    objects.make_durable(&names).expect("all at once");
    objects.delete(&names[0]).expect("deleted");
    let gone = objects.make_durable(&names[..1]).expect_err("it cannot survive");
    assert!(matches!(gone, ObjectError::Failed { .. }), "{gone}");
}

#[test]
fn a_full_file_system_is_told_apart_also_when_the_library_says_so() {
    let path = Path::new("/b/ab/x");
    assert!(matches!(from_io(path, io::ErrorKind::StorageFull.into()), ObjectError::Full { .. }));
    let wrapped = |kind: io::ErrorKind| object_store::Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(io::Error::from(kind)),
    };
    assert!(matches!(from_store(path, wrapped(io::ErrorKind::QuotaExceeded)), ObjectError::Full { .. }));
    let failed = from_store(path, wrapped(io::ErrorKind::PermissionDenied));
    let ObjectError::Failed { source, .. } = failed else { panic!("{failed}") };
    assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_real_file_system_without_room_says_so() {
    // Every write to it fails as on a full disk; it is there on every Linux.
    let mut full = File::options().write(true).open("/dev/full").expect("there");
    let error = full.write_all(b"x").expect_err("full");
    assert!(matches!(from_io(Path::new("/b/partial/x"), error), ObjectError::Full { .. }));
}

#[tokio::test]
async fn it_is_used_from_async_code_and_from_blocking_threads_alike() {
    let (_dir, objects) = opened();
    let objects = Arc::new(objects);
    let name = put(&objects, b"abc");
    let shared = Arc::clone(&objects);
    let read = tokio::task::spawn_blocking(move || read(&shared, &name)).await.expect("no panic");
    assert_eq!(read.as_deref(), Some(&b"abc"[..]));
    objects.delete(&name).expect("deleted");
}
