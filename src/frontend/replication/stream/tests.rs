use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

/// The relay's ends and the far ends of the client and the node.
fn bench(capacity: usize) -> ([DuplexStream; 2], DuplexStream, DuplexStream) {
    let (client, far_client) = duplex(capacity);
    let (node, far_node) = duplex(capacity);
    ([client, node], far_client, far_node)
}

#[test]
fn message_ends_are_found_however_the_bytes_are_cut() {
    let stream = [
        message(b'd', b"hello"),
        message(b'c', b""),
        message(b'd', &[7; 300]),
    ]
    .concat();
    let ends = [10, 15, 320];
    for step in 1..40 {
        let mut walk = Walk::default();
        let mut at = 0;
        for part in stream.chunks(step) {
            walk.pass(part);
            at += part.len();
            assert_eq!(walk.is_between_messages(), ends.contains(&at), "{at}");
        }
        assert!(walk.is_between_messages());
    }
}

#[tokio::test]
async fn both_directions_move_at_once_through_small_pipes() {
    let ([mut client, mut node], far_client, far_node) = bench(64);
    let (up, down) = (vec![1; 500_000], vec![2; 700_000]);
    let talk = |mut far: DuplexStream, say: Vec<u8>, hear: usize| async move {
        let mut heard = vec![0; hear];
        let (mut reader, mut writer) = tokio::io::split(&mut far);
        let (said, read) = tokio::join!(writer.write_all(&say), reader.read_exact(&mut heard));
        said.unwrap();
        read.unwrap();
        heard
    };
    let ((), heard_up, heard_down) = tokio::join!(
        async { Streams::new(&mut client, &mut node).relay().await },
        talk(far_node, down.clone(), up.len()),
        talk(far_client, up.clone(), down.len()),
    );
    assert!(heard_up == up && heard_down == down);
}

#[tokio::test]
async fn what_the_node_said_last_arrives_though_the_client_still_talks() {
    let ([mut client, mut node], mut far_client, mut far_node) = bench(16);
    let last = message(b'E', b"gone, and this is longer than the pipe");
    let expected = last.clone();
    let ends = async {
        let mut first = [0; 4];
        far_node.read_exact(&mut first).await.unwrap();
        far_node.write_all(&last).await.unwrap();
        drop(far_node);
    };
    let talks = async {
        far_client.write_all(b"stat").await.unwrap();
        let mut heard = vec![0; expected.len()];
        far_client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, expected);
        drop(far_client.write_all(&[1; 1000]).await);
    };
    let relay = async {
        Streams::new(&mut client, &mut node).relay().await;
        drop((client, node));
    };
    tokio::join!(relay, ends, talks);
}

#[tokio::test]
async fn a_message_that_has_begun_is_finished_and_no_other_begun() {
    let ([mut client, mut node], mut far_client, mut far_node) = bench(1 << 16);
    let whole = message(b'd', &[9; 5_000]);
    let mut streams = Streams::new(&mut client, &mut node);
    for begun in [0, 3, 5, 1_000, whole.len()] {
        far_node.write_all(&whole[..begun]).await.unwrap();
        let step = std::time::Duration::from_millis(5);
        assert!(tokio::time::timeout(step, streams.relay()).await.is_err());
        far_node.write_all(&whole[begun..]).await.unwrap();
        far_node.write_all(&whole).await.unwrap();
        streams.finish_message().await.unwrap();
        let expected = if begun == 0 { 0 } else { whole.len() };
        let mut heard = vec![0; expected];
        far_client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, whole[..expected]);
        // The rest is left for a relay that goes on.
        let mut rest = vec![0; 2 * whole.len() - expected];
        tokio::select! {
            () = streams.relay() => panic!("nobody has closed"),
            read = far_client.read_exact(&mut rest) => assert_eq!(read.unwrap(), rest.len()),
        }
        assert_eq!(rest.len() % whole.len(), 0);
    }
    drop(far_node);
    streams.relay().await;
}
